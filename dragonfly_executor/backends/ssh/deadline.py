"""The deadline of a boot, and its cancellation."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from dragonfly_executor.backends.base import GivenUp

if TYPE_CHECKING:
    from dragonfly_executor.backends.base import BootClock

LEAST = 0.01
"""Minimum seconds of a step: a step that starts too late still runs and fails, so that the error names the step."""
NEVER = float("inf")


class BootTime:
    """The deadline of a boot. While every thread of the boot waits for a turn, there is no deadline.

    Any thread.

    Args:
        seconds: the timeout, from now on, and anew from the end of each such wait.
        clock: the boot's timer, which gets `queued` and `started`; None if nothing measures the waits.
    """

    def __init__(self, seconds: float, clock: BootClock | None = None) -> None:
        self.when = time.monotonic() + seconds
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._working = 0
        self._waiting = 0
        """The number of working threads that wait for a turn."""

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count the calling thread as working on the boot while in the block."""
        self._change(1, 0)
        try:
            yield
        finally:
            self._change(-1, 0)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the calling thread, which works on the boot, as waiting for a turn while in the block."""
        self._change(0, 1)
        try:
            yield
        finally:
            self._change(0, -1)

    def _change(self, working: int, waiting: int) -> None:
        with self._lock:
            self._working += working
            self._waiting += waiting
            stands = 0 < self._working == self._waiting
            if stands == (self.when == NEVER):
                return
            self.when = NEVER if stands else time.monotonic() + self._seconds
            if self._clock is not None and stands:
                self._clock.queued()
            elif self._clock is not None:
                self._clock.started()


class Deadline:
    """The deadline of a boot. It passes at once if the pool cancels the boot.

    Args:
        seconds: the timeout, from now on.
        given_up: the cancel token; None if the boot is never cancelled.
        clock: the boot's timer. It gets `queued` when the boot waits for a turn, and `started` when it goes on. Then
            the timeout starts anew.
    """

    def __init__(self, seconds: float, given_up: GivenUp | None = None, clock: BootClock | None = None) -> None:
        self.time = BootTime(seconds, clock)
        self._signals: tuple[GivenUp, ...] = () if given_up is None else (given_up,)
        self._on_progress: Callable[[], object] = lambda: None

    def of_attempt(self, given_up: GivenUp, on_progress: Callable[[], object]) -> Deadline:
        """Return the deadline of an attempt to boot on one host. It shares the time of the boot.

        Args:
            given_up: the cancel token of this attempt.
            on_progress: called when the host has answered.
        """
        deadline = Deadline(0.0)
        deadline.time = self.time
        deadline._signals = (*self._signals, given_up)
        deadline._on_progress = on_progress
        return deadline

    def left(self, at_most: float = NEVER) -> float:
        """Return the seconds that are left, at least `LEAST` and at most `at_most`."""
        if self.is_given_up:
            return LEAST
        return max(LEAST, min(at_most, self.time.when - time.monotonic()))

    @property
    def is_given_up(self) -> bool:
        """Return True if the pool has cancelled the boot, or the boot has cancelled this attempt."""
        return any(signal.is_set() for signal in self._signals)

    @property
    def is_over(self) -> bool:
        """Return True if no time is left, or the boot was cancelled."""
        return self.is_given_up or time.monotonic() >= self.time.when

    def progress(self) -> None:
        """Report that the host has answered."""
        self._on_progress()

    def pause(self, seconds: float) -> None:
        """Wait for `seconds`, but no longer than the time left. Cancellation ends the wait."""
        woken = threading.Event()
        with self.ending(woken.set):
            woken.wait(self.left(seconds))

    @contextmanager
    def ending(self, end: Callable[[], object]) -> Iterator[None]:
        """Call `end` if the boot is cancelled inside the block, or was cancelled before. It may be called twice.

        Args:
            end: the callback. It must not block: the pool's engine thread runs it.
        """
        with ExitStack() as stack:
            for signal in self._signals:
                signal.call(end)
                stack.callback(signal.forget, end)
            yield
