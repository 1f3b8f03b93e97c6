"""Runs the call of a placed worker: makes its object, and runs methods until the parent stops it. On a slot."""

from __future__ import annotations

from types import CoroutineType

from dragonfly_executor.errors.base import MultiprocessingObjectError
from dragonfly_executor.serialization.rebuild import OBJECT_SOURCE
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

KIND = "PlacedWorker"
"""The kind of the object that stands for the parent's side of a worker."""


class WorkerChannel(Protocol):
    """The slot's end of the messages between a worker and its parent."""

    def open(self) -> None:
        """Begin to receive messages."""

    def close(self) -> None:
        """Receive no more messages."""

    def run_coroutine(self, coroutine: Any) -> Any:
        """Run a coroutine to its end in the slot's loop, and return its value."""

    def serve(self, target: Any, concurrency: int) -> None:
        """Run methods of an object, `concurrency` at once, until the parent stops the worker."""

    def serve_tasks(self, concurrency: int) -> None:
        """Run calls as tasks of the slot's loop, `concurrency` at once, until the parent stops the slot."""

    def run_process(self, argv: list[str], settings: Mapping[str, Any]) -> Any:
        """Run a process to its end, and return its `ProcessResult`."""


def open_channel(number: int) -> Any:
    """Return the slot's end of the messages of a worker. The pickle of the worker's call refers to this function.

    Raises:
        MultiprocessingObjectError: this is not a slot.
    """
    make = OBJECT_SOURCE.get()
    if make is None:
        raise MultiprocessingObjectError("a worker can be placed only in slots of runners, and on the thread of a call")
    return make(KIND, number, None)


def run_worker(channel: WorkerChannel, concurrency: int, make: Callable[..., Any], args: Any, kwargs: Any) -> None:
    """Make an object, and run its methods until the parent stops the worker. This is the call of a placed worker."""
    channel.open()
    try:
        made = make(*args, **kwargs)
        if type(made) is CoroutineType:
            made = channel.run_coroutine(made)
        del args, kwargs
        channel.serve(made, concurrency)
    finally:
        channel.close()


def run_tasks(channel: WorkerChannel, concurrency: int) -> None:
    """Run calls as tasks of the slot's loop until the parent stops the slot. This is the call of a task slot."""
    channel.open()
    try:
        channel.serve_tasks(concurrency)
    finally:
        channel.close()


def run_process(channel: WorkerChannel, argv: list[str], settings: Mapping[str, Any]) -> Any:
    """Run a process to its end, and return its `ProcessResult`. This is the call of a placed process."""
    channel.open()
    try:
        return channel.run_process(argv, settings)
    finally:
        channel.close()


def call_method(target: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    """Call a method of the worker's object. This is the function of a method call."""
    return getattr(target, name)(*args, **kwargs)
