"""How long a boot may still take, and whether the pool still wants it."""

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
"""Seconds that a step always gets: a late step fails by itself, and its error names the step."""
NEVER = float("inf")


class BootTime:
    """The moment by which a boot has to be done. There is none while all that works on the boot waits for a turn.

    Any thread.

    Args:
        seconds: from now on, and from the end of each such wait.
        clock: hears of these waits, as `BootRequest` has it; None if nothing measures them.
    """

    def __init__(self, seconds: float, clock: BootClock | None = None) -> None:
        self.when = time.monotonic() + seconds
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._working = 0
        self._waiting = 0
        """Of those that work."""

    @contextmanager
    def working(self) -> Iterator[None]:
        """The calling thread works on the boot in this block."""
        self._change(1, 0)
        try:
            yield
        finally:
            self._change(-1, 0)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The calling thread, which works on the boot, waits for a turn in this block."""
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
    """The moment by which a boot has to be done. It comes at once if the pool gives the boot up.

    Args:
        seconds: from now on.
        given_up: set when the pool does not want the boot any more; None if no pool will say so.
        clock: hears when the boot waits for a turn, and when it goes on; the boot's time begins anew then.
    """

    def __init__(self, seconds: float, given_up: GivenUp | None = None, clock: BootClock | None = None) -> None:
        self.time = BootTime(seconds, clock)
        self._signals: tuple[GivenUp, ...] = () if given_up is None else (given_up,)
        self._on_progress: Callable[[], object] = lambda: None

    def of_attempt(self, given_up: GivenUp, on_progress: Callable[[], object]) -> Deadline:
        """Return the deadline of an attempt to boot on one host. It is part of the boot, and shares its time.

        Args:
            given_up: set when the boot does not need this attempt any more.
            on_progress: called when the host has given an answer.
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
        """Whether the pool does not want the boot any more, or the boot not this attempt."""
        return any(signal.is_set() for signal in self._signals)

    @property
    def is_over(self) -> bool:
        """Whether no time is left, or the boot was given up."""
        return self.is_given_up or time.monotonic() >= self.time.when

    def progress(self) -> None:
        """Say that the host has given an answer."""
        self._on_progress()

    def pause(self, seconds: float) -> None:
        """Wait for `seconds`, for the time that is left, or until the boot is given up."""
        woken = threading.Event()
        with self.ending(woken.set):
            woken.wait(self.left(seconds))

    @contextmanager
    def ending(self, end: Callable[[], object]) -> Iterator[None]:
        """Call `end` if the boot is given up inside the block, or was before: perhaps twice.

        Args:
            end: must not block: an engine calls it.
        """
        with ExitStack() as stack:
            for signal in self._signals:
                signal.call(end)
                stack.callback(signal.forget, end)
            yield
