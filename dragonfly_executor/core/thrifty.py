"""Thrifty scaling: the boots that pay for themselves.

A boot pays if there is work for the runner when it comes up: a share of a boot time of work for each of its slots, the
*span*, beyond what the other runners do until then. A call counts with its mean seconds, and with the span at most:
more work than that is one call's, which no second runner can share.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from math import ceil, sqrt

from dragonfly_executor.core.calls import Call
from dragonfly_executor.core.idle_times import IdleTimes
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
LEAST: Final = 1e-6
"""Minimum seconds of a call."""
LONG: Final = 2.0
"""Multiple of the mean run time after which a running call counts as long: its slot is not expected to be free soon."""
MEMORY: Final = 256
"""Number of calls after which older ones count half."""
BOOTS: Final = 8
"""Number of boots over which their time is averaged."""
OVERDUE: Final = 2.0
"""Boot times after which a waiting call has a runner booted in any case."""


class Mean:
    """A running mean of which older values count less and less."""

    __slots__ = ("_count", "_sum", "value")

    def __init__(self) -> None:
        self._count = 0.0
        self._sum = 0.0
        self.value: float | None = None

    def add(self, value: float) -> None:
        """Add a value."""
        self._count += 1
        self._sum += value
        self.value = self._sum / self._count
        if self._count >= MEMORY:
            self._count /= 2
            self._sum /= 2


class ThriftyScaling:
    """The measurements of a kind's calls and boots, and the number of boots that follows.

    Attributes:
        boot: mean seconds of a boot; None if none has succeeded yet.
        idle_times: how long idle runners are kept.
    """

    __slots__ = ("_booting", "_boots", "_cost", "_long", "_running", "_short", "_since", "boot", "idle_times")

    def __init__(self) -> None:
        self.boot: float | None = None
        self.idle_times = IdleTimes()
        self._boots = 0
        # By runner, when its boot began; and the sum of these times.
        self._booting: dict[int, float] = {}
        self._since = 0.0
        self._cost = Mean()
        # Of each call's seconds, at most a span.
        self._short = Mean()
        # When each call was sent, oldest first, without the long ones.
        self._running: OrderedDict[int, float] = OrderedDict()
        self._long: set[int] = set()

    # -- boots ---------------------------------------------------------------------------------------------------------

    def boot_began(self, runner_id: int, now: float) -> None:
        """Record that a runner's node is requested."""
        if runner_id not in self._booting:
            self._booting[runner_id] = now
            self._since += now

    def boot_ended(self, runner_id: int, now: float | None = None) -> None:
        """Record that a boot is over. `now`: the time, if the runner is up."""
        since = self._booting.pop(runner_id, None)
        if since is None:
            return
        self._since = self._since - since if self._booting else 0.0
        if now is not None:
            self._boots = min(self._boots + 1, BOOTS)
            # A boot that took no time at all would make each idle time 0, and each call overdue.
            seconds, boot = max(now - since, 1e-3), self.boot
            self.boot = seconds if boot is None else boot + (seconds - boot) / self._boots

    # -- calls ---------------------------------------------------------------------------------------------------------

    def calls_sent(self, calls: Sequence[Call], now: float) -> None:
        """Record that calls were sent to a runner."""
        for call in calls:
            self._running[call.id] = now

    def call_ended(self, call_id: int, seconds: float) -> None:
        """Record that a call ended by itself after so many seconds."""
        self._cost.add(seconds)
        if self._running.pop(call_id, None) is None:
            self._long.discard(call_id)
        elif self.boot is not None:
            self._short.add(min(seconds, SPAN * self.boot))

    def call_left(self, call_id: int) -> None:
        """Record that a call has left its slot in another way."""
        if self._running.pop(call_id, None) is None:
            self._long.discard(call_id)

    # -- decisions -----------------------------------------------------------------------------------------------------

    def boots(self, waiting: int, slots_up: int, slots: int, now: float) -> int:
        """Return how many runners should be booting.

        Args:
            waiting: calls for which no slot is free.
            slots_up: slots of the runners that are up.
            slots: expected slots of a new runner.
            now: monotonic seconds.
        """
        if self.boot is None:
            # Calls may take milliseconds or hours: in the middle, on a scale of powers, between one boot and all.
            return ceil(2 * sqrt(waiting / slots))
        span = SPAN * self.boot
        self._review(now)
        short = FIRST_GUESS * self.boot if self._short.value is None else max(self._short.value, LEAST)
        cost = max(short, self._cost.value or 0.0)
        able = max(0, slots_up - len(self._long)) * (ABLE * self.boot + span)
        able += slots * ABLE_BOOTING * (len(self._booting) * now - self._since)
        # A long call occupies a slot for its whole time, but counts with a span at most.
        left = (waiting + len(self._running) / 2) * short - able * short / cost
        return max(0, int(left / (slots * span) + 0.5))

    def idle_ended(self, seconds: float, level: int) -> None:
        """Record that a runner got a call after so many seconds without one."""
        if self.boot is not None:
            self.idle_times.ended(seconds / self.boot, level)

    def runner_needed(self, now: float) -> None:
        """Record that a runner boots now."""
        if self.boot is not None:
            self.idle_times.needed(now, self.boot)

    def idle_after(self, level: int) -> float:
        """Return for how many seconds the runner of a level is kept without a call."""
        return self.idle_times.of(level) * (self.boot or 0.0)

    def next_review(self) -> float | None:
        """Return when the next running call counts as long, in monotonic seconds; None if there is none."""
        if self.boot is None or not self._running:
            return None
        return next(iter(self._running.values())) + self._long_after(self.boot)

    def _long_after(self, boot: float) -> float:
        return max(SPAN * boot, LONG * (self._cost.value or 0.0))

    def _review(self, now: float) -> None:
        """Take note of the calls that have become long. Each call does so at most once."""
        boot = self.boot or 0.0
        limit = self._long_after(boot)
        while self._running:
            call_id, since = next(iter(self._running.items()))
            if since + limit > now:
                return
            del self._running[call_id]
            self._long.add(call_id)
            self._short.add(SPAN * boot)
