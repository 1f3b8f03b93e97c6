"""The deadline of a boot by SSH. It stands still while all attempts on hosts wait for a turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dragonfly_executor.backends.base import GivenUp
from dragonfly_executor.backends.deadline import NEVER, Deadline

if TYPE_CHECKING:
    from dragonfly_executor.backends.base import BootClock


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


class SSHBootDeadline(Deadline):
    """The deadline of a boot on one of several hosts. It passes at once if the pool cancels the boot.

    Args:
        seconds: the timeout, from now on.
        given_up: the cancel token; None if the boot is never cancelled.
        clock: the boot's timer. It gets `queued` when the boot waits for a turn, and `started` when it goes on. Then
            the timeout starts anew.
    """

    def __init__(self, seconds: float, given_up: GivenUp | None = None, clock: BootClock | None = None) -> None:
        super().__init__(seconds, given_up)
        self.time = BootTime(seconds, clock)
        self._on_progress: Callable[[], object] = lambda: None

    @property
    def when(self) -> float:
        """Return the monotonic time of the deadline; `NEVER` while the boot waits for a turn."""
        return self.time.when

    def of_attempt(self, given_up: GivenUp, on_progress: Callable[[], object]) -> SSHBootDeadline:
        """Return the deadline of an attempt to boot on one host. It shares the time of the boot.

        Args:
            given_up: the cancel token of this attempt.
            on_progress: called when the host has answered.
        """
        deadline = SSHBootDeadline(0.0)
        deadline.time = self.time
        deadline._signals = (*self._signals, given_up)
        deadline._on_progress = on_progress
        return deadline

    def progress(self) -> None:
        """Report that the host has answered."""
        self._on_progress()
