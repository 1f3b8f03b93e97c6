"""The machine time and estimated cost that a pool's runners have used, and the caps on both."""

from __future__ import annotations

from math import inf

from dragonfly_executor.core.record import Record
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

ROUNDING: Final = 1e-9
"""Share of a cap that counts as zero. Rounding errors of sums may leave this much when all is used."""
FINEST: Final = 1074
"""Exponent of the finest float: each finite float is a whole number of 2 ** -1074.

Sums of such numbers are exact, in any order.
"""


class UsageCaps(Record):
    """The maximum that runners may use. None means no limit.

    Args:
        machine_seconds: seconds that runners exist, summed over all runners.
        cost: estimated cost in US dollars.
        price: default price of a runner in US dollars per second, used until its own price is known; None = unknown.
        as_of: date of the prices that estimates use; "" = unknown.
    """

    __slots__ = __match_args__ = ("machine_seconds", "cost", "price", "as_of")

    def __init__(
        self,
        *,
        machine_seconds: float | None = None,
        cost: float | None = None,
        price: float | None = None,
        as_of: str = "",
    ) -> None:
        self.machine_seconds = machine_seconds
        self.cost = cost
        self.price = price
        self.as_of = as_of


class Usage:
    """A record of machine time and cost. The caller passes the time.

    A runner counts from the moment at which its node is requested until nothing of the node is left.

    Attributes:
        caps: the given caps.
        is_capped: True if there is a cap on time or cost.
        until: monotonic seconds at which the current runners reach a cap; None = never.
        exhausted: True once a cap was reached. Used time is never given back, so this never becomes False.
    """

    __slots__ = (
        "_at",
        "_cost",
        "_rate",
        "_rates",
        "_runners",
        "_seconds",
        "_unpriced",
        "caps",
        "exhausted",
        "is_capped",
        "until",
    )

    def __init__(self, caps: UsageCaps) -> None:
        self.caps = caps
        self.is_capped = caps.machine_seconds is not None or caps.cost is not None
        self.until: float | None = None
        self.exhausted = False
        # Per runner: the time from which it counts, and its price.
        self._runners: dict[int, tuple[float, float | None]] = {}
        # Sums at the last change. From then on they grow linearly, with the number of runners and with their prices.
        self._at = 0.0
        self._seconds = 0.0
        self._cost = 0.0
        # The prices of all runners, as a whole number of 2 ** -1074. A float drifts with each price that is added or
        # subtracted, and is not 0 when no runner is left.
        self._rates = 0
        self._rate = 0.0
        self._unpriced = 0

    def began(self, runner_id: int, now: float) -> bool:
        """Start to count a runner whose node is being requested.

        Returns:
            False if the runner counts already. Then nothing changes.
        """
        if runner_id in self._runners:
            return False
        self._advance(now)
        price = self.caps.price
        self._runners[runner_id] = now, price
        self._count(price, 1)
        self._changed()
        return True

    def priced(self, runner_id: int, price: float, now: float) -> None:
        """Set a runner's price, in US dollars per second. The price applies from the runner's beginning."""
        self._advance(now)
        since, before = self._runners[runner_id]
        self._runners[runner_id] = since, price
        self._count(before, -1)
        self._count(price, 1)
        self._cost += (now - since) * (price - (before or 0.0))
        self._changed()

    def withdrawn(self, runner_id: int, now: float) -> None:
        """Remove the usage of a runner whose node was requested but not made.

        If the runner does not count, nothing changes.
        """
        if runner_id not in self._runners:
            return
        self._advance(now)
        since, price = self._runners.pop(runner_id)
        self._seconds -= now - since
        self._cost -= (now - since) * (price or 0.0)
        self._count(price, -1)
        self._changed()

    def ended(self, runner_id: int, now: float) -> None:
        """Stop counting a runner of which nothing is left. If the runner does not count, nothing changes."""
        if runner_id not in self._runners:
            return
        self._advance(now)
        price = self._runners.pop(runner_id)[1]
        # The time of a runner whose price never became known stays unpriced.
        if price is not None:
            self._count(price, -1)
        self._changed()

    def check(self, now: float) -> bool:
        """Return whether a cap has been reached by `now`."""
        if self.until is not None and now >= self.until:
            self.exhausted = True
        return self.exhausted

    def seconds(self, now: float) -> float:
        """Return the machine time of all runners up to `now`, in seconds, current runners included."""
        return self._seconds + len(self._runners) * max(0.0, now - self._at)

    def cost(self, now: float) -> float | None:
        """Return the estimated cost up to `now`, in US dollars; None if the price of a runner is unknown."""
        return None if self._unpriced else self._cost + self._rate * max(0.0, now - self._at)

    def snapshot(self) -> dict[int, tuple[float, float | None]]:
        """Return a copy that maps each counting runner's id to the time from which it counts, and its price."""
        return dict(self._runners)

    def _advance(self, now: float) -> None:
        passed = now - self._at
        self._seconds += len(self._runners) * passed
        self._cost += self._rate * passed
        self._at = now

    def _count(self, price: float | None, runners: int) -> None:
        """Add `runners` (1 or -1) to the number of runners at this price."""
        if price is None:
            self._unpriced += runners
        elif price:
            number, unit = price.as_integer_ratio()
            self._rates += runners * (number << (FINEST + 1 - unit.bit_length()))
            try:
                self._rate = self._rates / (1 << FINEST)
            # The sum exceeds the largest float. No sensible price comes near that.
            except OverflowError:
                self._rate = inf

    def _changed(self) -> None:
        if not self.is_capped:
            return
        seconds, cost = self.caps.machine_seconds, self.caps.cost
        ends = [
            None if seconds is None else self._when(seconds, self._seconds, len(self._runners)),
            None if cost is None else self._when(cost, self._cost, self._rate),
        ]
        self.until = min((end for end in ends if end is not None), default=None)

    def _when(self, cap: float, used: float, rate: float) -> float | None:
        """Return when the rest of a cap is used up at this rate, in monotonic seconds; None = never."""
        left = cap - used
        if left <= ROUNDING * cap:
            return self._at
        return self._at + left / rate if rate else None
