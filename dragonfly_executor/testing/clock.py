"""A clock that stands still until a test advances it."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from weakref import WeakSet

from dragonfly_executor.transport.loop import Loop

TIMEOUT = 30.0
"""Real seconds that the loops get for the work that has become due."""


class VirtualClock:
    """The clock of all pools on a `FakeBackend` that gets it.

    Timeouts, backoffs, idle limits and heartbeats expire when the test advances the clock, and at once.

    Args:
        now: initial time in seconds.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now
        self._loops: WeakSet[VirtualLoop] = WeakSet()

    def time(self) -> float:
        """Return the current time in seconds."""
        return self._now

    def make_loop(self) -> Loop:
        """Return a loop whose timers use this clock."""
        loop = VirtualLoop(self.time)
        self._loops.add(loop)
        return loop

    def advance(self, seconds: float) -> None:
        """Advance the time in one step, as if the process had slept, and return when the work that is then due is done.

        Work on other threads that follows from it (boots, stops and calls) may still be in progress.

        Args:
            seconds: the time to add.

        Raises:
            ValueError: `seconds` is negative.
            TimeoutError: a loop does not complete a pass.
        """
        if seconds < 0:
            raise ValueError(f"time goes forward only, and {seconds} is less than 0")
        # First complete the work that was handed over to the pools before: it belongs to the old time.
        self._settle()
        self._now += seconds
        self._settle()

    def _settle(self) -> None:
        for loop in list(self._loops):
            if not loop.come_round(TIMEOUT):
                raise TimeoutError("a pool's loop did not come round")


class VirtualLoop(Loop):
    """A loop with another clock than the machine's."""

    def __init__(self, time: Callable[[], float]) -> None:
        super().__init__()
        self.time = time  # replaces the class's own function
        self._lock = threading.Lock()
        self._closed = False
        self._rounds: set[threading.Event] = set()

    def come_round(self, timeout: float) -> bool:
        """Wait for a complete pass that begins now.

        Args:
            timeout: maximum time to wait, in seconds.

        Returns:
            False if no pass completes in time; True also if the loop is closed.
        """
        done = threading.Event()
        with self._lock:
            if self._closed:
                return True
            self._rounds.add(done)
        # A callback of `call_soon` in one pass runs at the end of the next pass, after that pass's timers.
        self.call_soon_threadsafe(lambda: self.call_soon(lambda: self.call_soon(done.set)))
        came = done.wait(timeout)
        with self._lock:
            self._rounds.discard(done)
        return came

    def close(self) -> None:
        """Close the loop, and release the threads that wait for a pass."""
        with self._lock:
            self._closed = True
            for done in self._rounds:
                done.set()
        super().close()

    def _poll_timeout(self) -> float | None:
        if super()._poll_timeout() is None or self._timers[0][0] > self.time():
            return None  # only `advance` makes a timer due, and it wakes the loop
        return 0.0

    def _run_due_timers(self) -> None:
        now = self.time()
        while self._timers and self._timers[0][0] <= now:
            callback = heapq.heappop(self._timers)[2].callback
            if callback is not None:
                callback()
