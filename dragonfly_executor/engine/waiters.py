"""Threads, and tasks of asyncio event loops, that wait for the engine. Only the engine thread wakes them."""

from __future__ import annotations

from _thread import TIMEOUT_MAX, allocate_lock
from collections.abc import Callable

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from dragonfly_executor.engine.loop_waker import LoopWaker


class Waiter(Protocol):
    """A thread or a task that waits until it is woken, once."""

    def wake(self) -> None:
        """Let it go on. Calling it twice is fine."""


class ThreadWaiter:
    """A thread that waits. An interrupt ends the wait, and leaves nothing locked that others need."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()

    def wake(self) -> None:
        """Let the thread go on."""
        if self._lock.locked():
            self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until this is woken, at most `timeout` seconds. Returns whether it was."""
        return self._lock.acquire(timeout=-1 if timeout is None else min(max(0.0, timeout), TIMEOUT_MAX))


class TaskWaiter:
    """A task that waits. It must be made in the thread of its loop, which runs.

    Args:
        waker_of: `LoopWakers.of` of the engine that wakes it.
    """

    __slots__ = ("_resume", "_resumed", "_waker")

    def __init__(self, waker_of: Callable[[AbstractEventLoop], LoopWaker]) -> None:
        # Imported here, because threads wait as well, and asyncio is slow to import.
        from dragonfly_executor.engine.awaiting import resuming, running_loop

        loop = running_loop()
        self._resumed = loop.create_future()
        self._resume = resuming(self._resumed)
        self._waker = waker_of(loop)

    def wake(self) -> None:
        """Let the task go on, after the next flush of its loop's waker."""
        self._waker.add(self._resume)

    async def wait(self) -> None:
        """Wait until this is woken."""
        await self._resumed
