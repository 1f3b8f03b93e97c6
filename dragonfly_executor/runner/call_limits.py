"""Stops calls at the end of their budget, or when their function has run for too long."""

from __future__ import annotations

from collections.abc import Callable

from dragonfly_executor.protocol.frames import MAX_DETAIL
from dragonfly_executor.runner.slot_handle import Slot, Work
from dragonfly_executor.transport.loop import Loop

INFINITY = float("inf")


class CallLimitTimers:
    """The limits of running calls. The clock of a `run_timeout` starts with the function, not with its imports.

    Args:
        loop: the agent's event loop.
        stop: called with a call whose limit has passed, and with its slot.
    """

    def __init__(self, loop: Loop, stop: Callable[[Work, Slot], None]) -> None:
        self._loop = loop
        self._stop = stop
        self.opening = 30.0
        """Seconds for decoding a call that has a `run_timeout`, unless its `run_timeout` is longer."""

    def watch(self, work: Work, slot: Slot) -> None:
        """Start the clocks of a call with limits. Its slot can start the call now."""
        work.since = slot.since
        work.ends = min(work.ends, slot.since + work.budget)
        if work.timer is not None:
            work.timer.cancel()
        self._check(work, slot, slot.since)

    def _check(self, work: Work, slot: Slot, now: float) -> None:
        """Stop the call if a limit has passed. If not, check again at the earliest time at which one can pass."""
        began = slot.progress.began(work.call_id, work.attempt)
        ends = work.ends
        if began is not None:
            ends = min(ends, began + work.run_timeout)
        elif slot.ready:
            # Its function may start this very moment.
            ends = min(ends, now + work.run_timeout, self._opened_by(work))
        if ends > now:
            work.timer = self._loop.call_at(ends, lambda: self._look(work, slot))
            return
        if began is None and work.ends > now:
            work.unopened = min(int((now - work.since) * 1000), MAX_DETAIL)
        self._stop(work, slot)

    def _look(self, work: Work, slot: Slot) -> None:
        if work.slot is slot and work in slot.in_flight:
            self._check(work, slot, self._loop.time())

    def _opened_by(self, work: Work) -> float:
        """Return the time by which the call must be decoded. The transfer of a large call does not count."""
        if work.missing > 0 or work.run_timeout == INFINITY:
            return INFINITY
        return work.since + max(work.run_timeout, self.opening)
