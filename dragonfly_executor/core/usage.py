"""What a pool's runners have used: how long they existed, and what that is estimated to cost; and the caps on it."""

from __future__ import annotations

from math import inf

from dragonfly_executor.core.record import Record

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import Final

ROUNDING: Final = 1e-9
"""The share of a cap that is nothing: as sums of fractions go, so much may be left where all is used."""
FINEST: Final = 1074
"""Each finite float is a whole number of 2 ** -1074. Sums of such numbers are exact, in whatever order they are added.
"""


class Caps(Record):
    """The most that runners may use; None = as much as they like.

    Args:
        machine_seconds: seconds that runners exist, over all of them.
        cost: an estimate, in US dollars.
        price: US dollars for a second of a runner, where nothing more exact is known of it; None = unknown.
        as_of: when prices were those that estimates go by; "" = unknown.
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


class Meter:
    """Counts from the moment at which a runner's node is asked for until nothing of it is left. It is handed the time.

    Attributes:
        caps: as they were given.
        is_capped: whether there are any.
        until: when a cap will be reached if the runners stay those that there are; None = never.
        exhausted: whether one has been reached. What was used stays used, so it stays so.
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

    def __init__(self, caps: Caps) -> None:
        self.caps = caps
        self.is_capped = caps.machine_seconds is not None or caps.cost is not None
        self.until: float | None = None
        self.exhausted = False
        # Since when each runner counts, and its price.
        self._runners: dict[int, tuple[float, float | None]] = {}
        # Sums at the time of the last change: from then on they grow evenly, by so many runners and their prices.
        self._at = 0.0
        self._seconds = 0.0
        self._cost = 0.0
        # The prices of all runners, as a whole number of 2 ** -1074. A float would be off by a little more with each
        # price that is added or subtracted, and not 0 when no runner is left.
        self._rates = 0
        self._rate = 0.0
        self._unpriced = 0

    def began(self, runner_id: int, now: float) -> None:
        """A runner's node is asked for. If it counts already, nothing changes."""
        if runner_id in self._runners:
            return
        self._advance(now)
        price = self.caps.price
        self._runners[runner_id] = now, price
        self._count(price, 1)
        self._changed()

    def priced(self, runner_id: int, price: float, now: float) -> None:
        """What a runner costs has become known; so much it has cost from its beginning on."""
        self._advance(now)
        since, before = self._runners[runner_id]
        self._runners[runner_id] = since, price
        self._count(before, -1)
        self._count(price, 1)
        self._cost += (now - since) * (price - (before or 0.0))
        self._changed()

    def withdrawn(self, runner_id: int, now: float) -> None:
        """A runner's node was asked for and not made: it has used nothing. If it does not count, nothing changes."""
        if runner_id not in self._runners:
            return
        self._advance(now)
        since, price = self._runners.pop(runner_id)
        self._seconds -= now - since
        self._cost -= (now - since) * (price or 0.0)
        self._count(price, -1)
        self._changed()

    def ended(self, runner_id: int, now: float) -> None:
        """Nothing of a runner is left. If it does not count, nothing changes."""
        if runner_id not in self._runners:
            return
        self._advance(now)
        price = self._runners.pop(runner_id)[1]
        # What one used whose price never became known stays without a price.
        if price is not None:
            self._count(price, -1)
        self._changed()

    def check(self, now: float) -> bool:
        """Whether a cap has been reached by now."""
        if self.until is not None and now >= self.until:
            self.exhausted = True
        return self.exhausted

    def seconds(self, now: float) -> float:
        """What all runners have used so far, those that are there included."""
        return self._seconds + len(self._runners) * max(0.0, now - self._at)

    def cost(self, now: float) -> float | None:
        """What that is estimated to cost, in US dollars; None where the price of one of them is not known."""
        return None if self._unpriced else self._cost + self._rate * max(0.0, now - self._at)

    def snapshot(self) -> dict[int, tuple[float, float | None]]:
        """Of each runner that counts, since when it does, and its price: as things are now, whatever comes."""
        return dict(self._runners)

    def _advance(self, now: float) -> None:
        passed = now - self._at
        self._seconds += len(self._runners) * passed
        self._cost += self._rate * passed
        self._at = now

    def _count(self, price: float | None, runners: int) -> None:
        """One runner more, or one less, has this price."""
        if price is None:
            self._unpriced += runners
        elif price:
            number, unit = price.as_integer_ratio()
            self._rates += runners * (number << (FINEST + 1 - unit.bit_length()))
            try:
                self._rate = self._rates / (1 << FINEST)
            except OverflowError:  # as a sum of floats, which no price that makes sense comes near
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
        """When what is left is used up at this rate."""
        left = cap - used
        if left <= ROUNDING * cap:
            return self._at
        return self._at + left / rate if rate else None
