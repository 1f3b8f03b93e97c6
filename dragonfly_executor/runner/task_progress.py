"""The reports of progress of calls that share a slot: each report goes with the number of its call."""

from __future__ import annotations

from contextlib import suppress
from contextvars import ContextVar
from time import perf_counter

from dragonfly_executor.protocol.call_progress import MOST_TEXT
from dragonfly_executor.protocol.placed_messages import SlotSays
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

RUNNING_TASK: ContextVar[int] = ContextVar("RUNNING_TASK", default=0)
"""The number of the call whose task this is; 0 for none. Tasks and threads that it starts inherit it."""
INTERVAL = 0.05
"""Minimum seconds between two reports of a call that are sent."""


class TaskProgress:
    """The reports of the calls of one slot. It stands in the place of `ProgressReports`.

    Args:
        say: tells the parent something. Any thread may call it.
        loop: the loop of the calls.
    """

    def __init__(self, say: Callable[..., None], loop: AbstractEventLoop) -> None:
        self._say = say
        self._loop = loop
        self._sent_at: dict[int, float] = {}
        self._latest: dict[int, tuple[float, float | None, str]] = {}
        """By call, the report that was not sent yet."""

    def add(self, done: float, total: float | None, text: str) -> None:
        """Report for the call of this task. Any thread may call this."""
        number = RUNNING_TASK.get()
        if not number:
            return
        waits = number in self._latest
        self._latest[number] = done, total, text[:MOST_TEXT]
        if waits:
            return
        if perf_counter() - self._sent_at.get(number, 0.0) >= INTERVAL:
            self._send(number)
        else:
            self._loop.call_soon_threadsafe(self._loop.call_later, INTERVAL, self._send, number)

    def _send(self, number: int) -> None:
        latest = self._latest.pop(number, None)
        if latest is not None:
            self._sent_at[number] = perf_counter()
            with suppress(OSError):  # the agent is gone, and this process ends
                self._say(SlotSays.PROGRESS, number, *latest)

    def end(self, number: int) -> None:
        """Send the last report of a call."""
        self._send(number)
        self._sent_at.pop(number, None)

    def end_call(self) -> None:
        """Do nothing: see `ProgressReports`. Each call was ended by `end`."""
