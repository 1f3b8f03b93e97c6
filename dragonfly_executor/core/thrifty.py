"""Thrifty scaling: the boots that pay for themselves.

A boot pays if there is work for the runner when it comes up: a share of a boot time of work for each of its slots, the
*span*, beyond what the other runners do until then. A call counts with its mean seconds, and with the span at most:
more work than that is one call's, which no second runner can share.
"""

from __future__ import annotations

from math import ceil, sqrt

from dragonfly_executor.core.boot_times import BootTimes
from dragonfly_executor.core.call_costs import LEAST, CallCosts
from dragonfly_executor.core.idle_times import IdleTimes
from dragonfly_executor.core.key_costs import KeyCosts
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

SPAN: Final = 0.2
"""Work for each slot of a new runner, in boot times."""
ABLE: Final = 1 / 3
"""Share of a boot time in which the runners that are up count as able to do the work that waits now.

The rest of that time goes to calls that are yet to come.
"""
ABLE_BOOTING: Final = 0.5
"""Share of the time since a boot began, in which its runner counts as able to do the work that waits now."""
FIRST_GUESS: Final = 1 / 30
"""Seconds of a call in boot times, until a call has ended or has run for a span."""
OVERDUE: Final = 2.0
"""Boot times after which a waiting call has a runner booted in any case."""


class ThriftyScaling:
    """The decisions of a thrifty pool about one kind of runners: how many boot, and how long idle ones are kept.

    Args:
        boot_times: how long boots take, and those that are under way.
        costs: how long calls take, and those that run.

    Attributes:
        idle_times: how long idle runners are kept.
    """

    __slots__ = ("_boot_times", "_costs", "idle_times")

    def __init__(self, boot_times: BootTimes, costs: CallCosts) -> None:
        self._boot_times: Final = boot_times
        self._costs: Final = costs
        self.idle_times = IdleTimes()

    # -- boots ---------------------------------------------------------------------------------------------------------

    def boots(self, waiting: int, slots_up: int, slots: int, now: float, keys: KeyCosts | None = None) -> int:
        """Return how many runners should be booting.

        Args:
            waiting: calls for which no slot is free.
            slots_up: slots of the runners that are up.
            slots: expected slots of a new runner.
            now: monotonic seconds.
            keys: how long calls of each key take.
        """
        boot, costs = self._boot_times.seconds, self._costs
        if boot is None:
            # Calls may take milliseconds or hours: in the middle, on a scale of powers, between one boot and all.
            return ceil(2 * sqrt(waiting / slots))
        span = SPAN * boot
        costs.review(now, costs.long_after or span)
        capped, mean = costs.capped.value, costs.mean.value
        short = FIRST_GUESS * boot if capped is None else max(capped, LEAST)
        cost = max(short, mean or 0.0)
        left, taken = waiting * short, short / cost
        if keys is not None and (keys.waiting.calls or keys.new_calls):
            with_key = keys.waiting.calls + keys.new_calls
            weight = max(0, waiting - with_key) + keys.new_weight
            left = keys.waiting.capped + weight * short
            taken = min(1.0, left / max(keys.waiting.seconds + weight * cost, LEAST))
            # Some of these calls may be left to others.
            left *= min(1.0, waiting / with_key)
        horizon, running = ABLE * boot + span, costs.usual
        able = max(0, slots_up - len(costs.long)) * horizon - running * time_off(horizon, running, cost, keys)
        able += slots * ABLE_BOOTING * self._boot_times.spent(now)
        # A long call occupies a slot for its whole time, but counts with a span at most.
        each = left / waiting
        left -= able * taken
        boots = max(0, int(left / (slots * span) + 0.5))
        # A call that is long enough to be worth a runner does not wait for others that fill its other slots.
        return 1 if not boots and min(each, left) >= span / 2 else boots

    def next_review(self) -> float | None:
        """Return when the next running call counts as long, in monotonic seconds; None if there is none."""
        return self._costs.next_long()

    def overdue_after(self) -> float | None:
        """Return after how many seconds a waiting call has a runner booted in any case; None while that is unknown."""
        boot = self._boot_times.seconds
        return None if boot is None else OVERDUE * boot

    def boot_succeeded(self) -> None:
        """Note that the mean seconds of a boot have changed."""
        if self._boot_times.seconds is not None:
            self._costs.cap = SPAN * self._boot_times.seconds

    # -- idle runners --------------------------------------------------------------------------------------------------

    def idle_ended(self, seconds: float, level: int) -> None:
        """Record the seconds after which an idle runner got a call."""
        boot = self._boot_times.seconds
        if boot is not None:
            self.idle_times.ended(seconds / boot, level)

    def runner_needed(self, now: float) -> None:
        """Record that a runner boots now."""
        boot = self._boot_times.seconds
        if boot is not None:
            self.idle_times.needed(now, boot)

    def idle_after(self, level: int) -> float:
        """Return for how many seconds the runner of a level is kept without a call."""
        return self.idle_times.of(level) * (self._boot_times.seconds or 0.0)


def time_off(horizon: float, running: int, cost: float, keys: KeyCosts | None) -> float:
    """Return the seconds of the horizon in which the slot of a running call is not free for waiting calls.

    That is half of the call's time. But if calls take much longer than the horizon, it matters how soon slots become
    free for a call to begin, and not how much work they do until then. The longer calls take, the less is subtracted.

    Args:
        horizon: the seconds that count.
        running: number of calls that run.
        cost: mean seconds of a call without a known key.
        keys: how long calls of each key take.
    """
    if keys is not None and keys.running.calls:
        cost = (keys.running.seconds + max(0, running - keys.running.calls) * cost) / max(running, keys.running.calls)
    return min(cost / 2, max(0.0, horizon - cost / 2))
