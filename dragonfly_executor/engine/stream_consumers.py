"""Consumers of a stream's items: a thread, or a task of an asyncio event loop."""

from __future__ import annotations

import sys
import weakref
from _thread import get_ident

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import Task
    from typing import Any, TypeAlias

    Consumer: TypeAlias = int | weakref.ref[Task[Any]]
    """A thread's number, or a reference to a task."""


def current_task() -> Task[Any] | None:
    """Return the asyncio task that runs in this thread; None if there is none."""
    if "asyncio" not in sys.modules:
        return None
    import asyncio

    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop runs here
        return None


def current_consumer() -> Consumer:
    """Return the task that runs in this thread, or the thread."""
    task = current_task()
    return get_ident() if task is None else weakref.ref(task)


def is_abandoned(consumer: Consumer, *, blocks: bool) -> bool:
    """Return whether the consumer takes no more items while the caller waits for the pool.

    Args:
        consumer: it has ended, or it is the caller itself.
        blocks: whether the caller blocks its thread, and with it the loop that runs there.
    """
    if isinstance(consumer, int):
        # Only a task that blocks nothing leaves its thread to others.
        return (consumer == get_ident() and blocks) or consumer not in sys._current_frames()  # noqa: SLF001
    task, own = consumer(), current_task()
    if task is None or task.done() or task.get_loop().is_closed() or task is own:
        return True
    return blocks and own is not None and own.get_loop() is task.get_loop()
