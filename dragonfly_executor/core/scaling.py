"""How many runners, and how many calls on each: functions from numbers to numbers."""

from __future__ import annotations

from math import ceil

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import Final

PREFETCH_SPAN: Final = 0.005
"""Seconds of work that a slot may have waiting behind its call: enough to hide a hop between processes, and little
enough that a call which waits there while a slot elsewhere becomes free loses nothing that anybody notices."""
MAX_PREFETCH: Final = 128
"""Calls that a slot may have waiting at most."""
MAX_AHEAD: Final = 512
"""The same for a runner that is far away, where more are on their way than wait. Each may have 64 KiB with it."""
NEAR: Final = 0.001
"""Seconds of round trip below which a runner is as good as here."""
WORTHWHILE: Final = 0.1
"""The share of a call's run time that a round trip must come to before calls are sent ahead because of it."""
MEMORY: Final = 8
"""Results after which half of a runner's estimate of what a call costs is theirs."""
UNDER_LOAD: Final = 2.0
"""How much longer a call's way there and back may be than that of a ping, which finds the line free."""
STUCK_COST: Final = 0.010
"""Seconds that a call is taken to cost where calls were stuck behind it: long enough that none is sent ahead."""


def prefetch(cost: float | None, slots: int, round_trip: float = 0.0) -> int:
    """How many calls a runner may have beyond those that its slots run.

    Args:
        cost: seconds that a call runs there; None = unknown, which gives one a slot.
        slots: calls at once on it.
        round_trip: seconds to the runner and back, of a ping. While a call's own pass, a slot would stand idle; so
            work for that long is sent ahead, where it matters beside the cost.
    """
    if cost is None:
        return slots
    each = 0
    if cost < PREFETCH_SPAN:
        each = MAX_PREFETCH if cost * MAX_PREFETCH <= PREFETCH_SPAN else max(1, int(PREFETCH_SPAN / cost))
    if round_trip > NEAR and round_trip > WORTHWHILE * cost:
        span = UNDER_LOAD * round_trip
        each = MAX_AHEAD if cost * MAX_AHEAD <= span else max(each, ceil(span / cost))
    return slots * each


def cost_after(cost: float | None, seconds: float, count: int) -> float:
    """A runner's cost of a call, once `count` more of them have run for `seconds` together."""
    if cost is None:
        return seconds / count
    return cost + (seconds / count - cost) * count / (count + MEMORY)


def cost_of_stuck(cost: float | None, round_trip: float) -> float:
    """A runner's cost of a call, once it has given back calls that were stuck: so high that none is sent ahead."""
    return max(cost or 0.0, STUCK_COST, 2 * round_trip / WORTHWHILE)


def boots_for(waiting: int, slots_hint: int) -> int:
    """How many runners of that many slots it takes to hold the waiting calls."""
    return -(-waiting // slots_hint) if waiting > 0 else 0


def boots_needed(
    *,
    waiting: int,
    up: int,
    booting: int,
    total: int,
    at_least: int,
    at_most: int,
    slots_hint: int,
    slots_allowed: int | None,
) -> int:
    """How many boots are to start, if the backend can run so many at once.

    Args:
        waiting: calls for which no slot is free.
        up, booting, total: runners that are up, that boot, and all that exist, stopping ones included.
        at_least, at_most: runners to keep, and to have at most.
        slots_hint: slots that a runner is expected to have.
        slots_allowed: slots that may be added before ``max_workers`` makes more of them useless; None = any number.
    """
    wanted = boots_for(waiting, slots_hint) - booting
    if slots_allowed is not None:
        wanted = min(wanted, boots_for(slots_allowed, slots_hint) - booting)
    wanted = max(wanted, at_least - up - booting)
    return max(0, min(wanted, at_most - total))


class BackOff:
    """The pause after failed boots, and their count. A voice of caution that is handed the time.

    Attributes:
        failures: boots that failed in a row.
        until: monotonic seconds before which nothing boots, or None.
        final: why no further boot can end better, where one of those that are under way still may; else None.
    """

    def __init__(self) -> None:
        self.failures = 0
        self.until: float | None = None
        self.final: Exception | None = None

    def failed(self, until: float | None = None) -> None:
        """A boot came to nothing; `until` is when the next may begin."""
        self.failures += 1
        if until is not None and (self.until is None or until > self.until):
            self.until = until

    def succeeded(self) -> None:
        """A boot worked: whatever was wrong is over."""
        self.failures = 0
        self.until = self.final = None

    def gave_up(self) -> int:
        """Start counting anew, and say how many boots had failed. The pause stays, or `min` would boot without any."""
        failures, self.failures, self.final = self.failures, 0, None
        return failures

    def demanded(self) -> None:
        """Somebody asks again after the pool gave up: the first boot need not wait."""
        if self.failures == 0:
            self.until = None

    def holds(self, now: float) -> bool:
        """Whether boots must wait."""
        if self.until is not None and self.until <= now:
            self.until = None
        return self.until is not None


class BootPlaces:
    """The boots that a backend runs at once, by runner, against the most that it can.

    Attributes:
        at_most: boots at once.
        hung: boots that are over for the pool, and over which the backend still blocks. They keep their places.
    """

    def __init__(self, at_most: int) -> None:
        self.at_most: Final = at_most
        self.hung: set[int] = set()
        self._taken: set[int] = set()

    @property
    def free(self) -> int:
        """How many boots may begin."""
        return self.at_most - len(self._taken) - len(self.hung)

    @property
    def all_hang(self) -> bool:
        """Whether no boot can begin, and none is under way."""
        return len(self.hung) >= self.at_most

    def take(self, runner_id: int) -> None:
        """A boot begins."""
        self._taken.add(runner_id)

    def leave(self, runner_id: int, *, hangs: bool = False) -> None:
        """A boot is over, well or not. With `hangs` the backend still blocks over it."""
        if hangs and runner_id in self._taken:
            self.hung.add(runner_id)
        self._taken.discard(runner_id)

    def returned(self, runner_id: int) -> bool:
        """The backend has come back from a boot that hung; False if that was none."""
        known = runner_id in self.hung
        self.hung.discard(runner_id)
        return known
