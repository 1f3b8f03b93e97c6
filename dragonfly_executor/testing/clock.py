"""Time that stands still until a test moves it."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from weakref import WeakSet

from dragonfly_executor.transport.loop import Loop

PATIENCE = 30.0
"""Seconds, real ones, that the loops get to do what has become due."""


class VirtualClock:
    """The clock of all pools on a `FakeBackend` that was given it: timeouts, back-offs, idle limits and heartbeats ring
    when the test says so, and at once.

    Args:
        now: seconds that it shows at first.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now
        self._loops: WeakSet[VirtualLoop] = WeakSet()

    def time(self) -> float:
        """Seconds that it shows."""
        return self._now

    def make_loop(self) -> Loop:
        """A loop whose timers go by this clock."""
        loop = VirtualLoop(self.time)
        self._loops.add(loop)
        return loop

    def advance(self, seconds: float) -> None:
        """Let so much time pass in one leap, as if the process had slept, and return when what is due then is done.

        What that has led to on other threads, boots and stops and calls, may still be under way.

        Raises:
            ValueError: `seconds` is negative.
            TimeoutError: a loop does not come round.
        """
        if seconds < 0:
            raise ValueError(f"time goes forward only, and {seconds} is less than 0")
        # First what has been handed over to the pools so far: it happened before.
        self._settle()
        self._now += seconds
        self._settle()

    def _settle(self) -> None:
        for loop in list(self._loops):
            if not loop.come_round(PATIENCE):
                raise TimeoutError("a pool's loop did not come round")


class VirtualLoop(Loop):
    """A loop that goes by another clock than the machine's."""

    def __init__(self, time: Callable[[], float]) -> None:
        super().__init__()
        self.time = time  # in the place of the class's own function
        self._lock = threading.Lock()
        self._closed = False
        self._rounds: set[threading.Event] = set()

    def come_round(self, patience: float) -> bool:
        """Wait for a whole pass that begins now; False if there is none within `patience` seconds."""
        done = threading.Event()
        with self._lock:
            if self._closed:
                return True
            self._rounds.add(done)
        # What is called soon in one pass runs at the end of the next, past that one's timers.
        self.call_soon_threadsafe(lambda: self.call_soon(lambda: self.call_soon(done.set)))
        came = done.wait(patience)
        with self._lock:
            self._rounds.discard(done)
        return came

    def close(self) -> None:
        """See `Loop`. Nobody waits for a pass that will not come."""
        with self._lock:
            self._closed = True
            for done in self._rounds:
                done.set()
        super().close()

    def _patience(self) -> float | None:
        if super()._patience() is None or self._timers[0][0] > self.time():
            return None  # only `advance` can make something due, and it wakes the loop
        return 0.0

    def _run_due_timers(self) -> None:
        now = self.time()
        while self._timers and self._timers[0][0] <= now:
            callback = heapq.heappop(self._timers)[2].callback
            if callback is not None:
                callback()
