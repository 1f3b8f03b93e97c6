"""Durations of calls by key, and the work of the calls that wait and run, as their keys' own means tell."""

from __future__ import annotations

from collections import OrderedDict
from math import sqrt

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

MAX_KEYS: Final = 10_000
"""Number of keys without a call whose means are known. The key that was used longest ago is forgotten first."""
MEMORY: Final = 32
"""Number of calls of a key over which its means are averaged."""


class KeyCost:
    """The means of a key, and the number of its calls.

    Attributes:
        capped: mean of the seconds of its calls, each up to a cap; None if no call has ended or become long.
        seconds: mean of the seconds of its calls.
        waiting, running: number of calls that wait, and that run without being long.
    """

    __slots__ = ("_ended", "_known", "capped", "running", "seconds", "waiting")

    def __init__(self) -> None:
        self.capped: float | None = None
        self.seconds = 0.0
        self.waiting = 0
        self.running = 0
        self._known = 0
        self._ended = 0

    def add_capped(self, seconds: float) -> None:
        """Count the capped seconds of a call."""
        self._known = min(self._known + 1, MEMORY)
        capped = self.capped or 0.0
        self.capped = capped + (seconds - capped) / self._known

    def add(self, seconds: float) -> None:
        """Count the seconds of a call that has ended."""
        self._ended = min(self._ended + 1, MEMORY)
        self.seconds += (seconds - self.seconds) / self._ended

    def at_least(self, seconds: float) -> None:
        """Record that a call has run for these seconds and still runs."""
        if not self._ended:
            self.seconds = max(self.seconds, seconds)


def weight_of(calls: int) -> float:
    """Return the number of calls for which these calls of one unknown key count.

    They may all be short, or all long: in the middle, on a scale of powers, between one and all.
    """
    return min(calls, 2 * sqrt(calls))


class ExpectedWork:
    """The work of some calls whose keys have known means.

    Attributes:
        calls: number of these calls.
        capped: sum of the capped seconds that they are expected to take.
        seconds: sum of the seconds that they are expected to take.
    """

    __slots__ = ("calls", "capped", "seconds")

    def __init__(self) -> None:
        self.calls = 0
        self.capped = 0.0
        self.seconds = 0.0

    def add(self, cost: KeyCost, calls: int) -> None:
        """Add calls of a key with known means, or take them away if `calls` is negative."""
        self.calls += calls
        if self.calls:
            self.capped += calls * (cost.capped or 0.0)
            self.seconds += calls * cost.seconds
        else:
            # Rounding errors must not add up.
            self.capped = self.seconds = 0.0


class KeyCosts:
    """The means of the keys of one kind's calls, and the work that follows from them.

    A change of a mean changes the work by the number of calls of this key, so no event visits other calls.

    Attributes:
        waiting: the work of the calls that wait for a slot.
        new_calls: number of calls that wait and whose key has no known means.
        new_weight: number of calls without a key that these count for.
        running: the work of the calls that run, without the long ones.
    """

    __slots__ = ("_costs", "_resting", "new_calls", "new_weight", "running", "waiting")

    def __init__(self) -> None:
        self.new_calls = 0
        self.new_weight = 0.0
        self.waiting = ExpectedWork()
        self.running = ExpectedWork()
        self._costs: dict[int, KeyCost] = {}
        # The keys that have no call, the least recently used first.
        self._resting: OrderedDict[int, None] = OrderedDict()

    def queued(self, key: int) -> None:
        """Record that a call came into the queue."""
        self._change(key, waiting=1)

    def unqueued(self, key: int) -> None:
        """Record that a call was settled while it was queued."""
        self._change(key, waiting=-1)

    def sent(self, key: int) -> None:
        """Record that a queued call was sent to a runner."""
        self._change(key, waiting=-1, running=1)

    def left(self, key: int) -> None:
        """Record that a call that is not long has left its slot."""
        self._change(key, running=-1)

    def became_long(self, key: int, seconds: float, cap: float | None) -> None:
        """Record that a running call is long from now on.

        Args:
            key: its key.
            seconds: for how long it has run.
            cap: its capped seconds; None if they are unknown.
        """
        cost = self._take_out(key)
        cost.running -= 1
        if cap is not None:
            cost.add_capped(cap)
        cost.at_least(seconds)
        self._put_in(key, cost)

    def ended(self, key: int, seconds: float, capped: float | None) -> None:
        """Record the seconds of a call that has ended by itself.

        Args:
            key: its key.
            seconds: its seconds.
            capped: its capped seconds; None if they are unknown, or are counted already.
        """
        cost = self._take_out(key)
        cost.add(seconds)
        if capped is not None:
            cost.add_capped(capped)
        self._put_in(key, cost)

    def seconds_of(self, key: int) -> float:
        """Return the mean seconds of the calls of a key; 0 if it is unknown."""
        cost = self._costs.get(key)
        return 0.0 if cost is None else cost.seconds

    def _change(self, key: int, *, waiting: int = 0, running: int = 0) -> None:
        """Change the number of a key's calls."""
        cost = self._costs.get(key)
        if cost is None:
            cost = self._costs[key] = KeyCost()
        elif not cost.waiting and not cost.running:
            del self._resting[key]
        before = cost.waiting
        cost.waiting += waiting
        cost.running += running
        if cost.capped is None:
            self._change_new(before, cost.waiting)
        else:
            self.waiting.add(cost, waiting)
            if running:
                self.running.add(cost, running)
        if not cost.waiting and not cost.running:
            self._rest(key)

    def _take_out(self, key: int) -> KeyCost:
        """Return the means of a key, and take its calls out of the sums while they change."""
        cost = self._costs.get(key)
        if cost is None:
            cost = self._costs[key] = KeyCost()
        elif cost.capped is None:
            self._change_new(cost.waiting, 0)
        else:
            self.waiting.add(cost, -cost.waiting)
            self.running.add(cost, -cost.running)
        return cost

    def _put_in(self, key: int, cost: KeyCost) -> None:
        if cost.capped is None:
            self._change_new(0, cost.waiting)
        else:
            self.waiting.add(cost, cost.waiting)
            self.running.add(cost, cost.running)
        if not cost.waiting and not cost.running:
            self._rest(key)

    def _change_new(self, before: int, calls: int) -> None:
        """Change the number of waiting calls of a key that has no known means."""
        self.new_calls += calls - before
        self.new_weight = self.new_weight + weight_of(calls) - weight_of(before) if self.new_calls else 0.0

    def _rest(self, key: int) -> None:
        """Note that a key has no call now, and forget the key that has had none for longest if there are too many."""
        self._resting[key] = None
        self._resting.move_to_end(key)
        if len(self._resting) > MAX_KEYS:
            del self._costs[self._resting.popitem(last=False)[0]]
