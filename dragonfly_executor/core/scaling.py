"""The number of runners, and of calls on each: functions from numbers to numbers."""

from __future__ import annotations

from math import ceil

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

PREFETCH_SPAN: Final = 0.005
"""Seconds of work that may wait in a slot behind its call.

That hides a hop between processes. A call that waits there while another slot is free loses no noticeable time.
"""
MAX_PREFETCH: Final = 128
"""Maximum number of calls that may wait in a slot."""
MAX_AHEAD: Final = 512
"""Maximum number of calls that may wait per slot of a distant runner, most of them in transit.

Each call may have 64 KiB with it.
"""
NEAR: Final = 0.001
"""Round-trip time in seconds up to which a runner counts as local."""
WORTHWHILE: Final = 0.1
"""Minimum ratio of round-trip time to a call's run time at which calls are sent ahead because of the round trip."""
MEMORY: Final = 8
"""Number of results after which they make up half of a runner's cost estimate."""
UNDER_LOAD: Final = 2.0
"""Maximum ratio of a call's round-trip time to that of a ping, which finds the connection free."""
STUCK_COST: Final = 0.010
"""Assumed minimum cost in seconds of a call after calls were stuck behind another: high enough to stop prefetch."""


def prefetch(cost: float | None, slots: int, round_trip: float = 0.0) -> int:
    """Return how many calls a runner may have beyond its running calls.

    Args:
        cost: run time of a call there, in seconds; None = unknown, which gives one call per slot.
        slots: number of calls that it runs at once.
        round_trip: round-trip time of a ping to the runner, in seconds. A slot idles while a call and its result are in
            transit. If this time is significant beside the cost, the runner gets work for it in advance.
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
    """Return a runner's cost of a call, in seconds, after `count` more calls have run for `seconds` in total."""
    if cost is None:
        return seconds / count
    return cost + (seconds / count - cost) * count / (count + MEMORY)


def cost_of_stuck(cost: float | None, round_trip: float) -> float:
    """Return a runner's cost of a call, in seconds, after it gave back stuck calls: high enough to stop prefetch."""
    return max(cost or 0.0, STUCK_COST, 2 * round_trip / WORTHWHILE)


def boots_for(waiting: int, slots_hint: int) -> int:
    """Return how many runners with `slots_hint` slots hold the waiting calls."""
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
    """Return how many boots to start, not limited by the backend's concurrent boots.

    Args:
        waiting: calls for which no slot is free.
        up, booting, total: runners that are up, that boot, and that exist, stopping ones included.
        at_least, at_most: minimum and maximum number of runners.
        slots_hint: expected number of slots of a runner.
        slots_allowed: slots that may be added before ``max_workers`` makes more slots useless; None = any number.
    """
    wanted = boots_for(waiting, slots_hint) - booting
    if slots_allowed is not None:
        wanted = min(wanted, boots_for(slots_allowed, slots_hint) - booting)
    wanted = max(wanted, at_least - up - booting)
    return max(0, min(wanted, at_most - total))


class BackOff:
    """The pause after failed boots, and the count of failures. The caller passes the time.

    Attributes:
        failures: number of boots that failed in a row.
        until: monotonic seconds before which no boot begins, or None.
        final: the error after which no further boot can succeed, while a pending boot still may; otherwise None.
    """

    def __init__(self) -> None:
        self.failures = 0
        self.until: float | None = None
        self.final: Exception | None = None

    def failed(self, until: float | None = None, *, counts: bool = True) -> None:
        """Count a failed boot.

        Args:
            until: monotonic seconds at which the next boot may begin.
            counts: whether this is one more failure in a row.
        """
        self.failures += counts
        if until is not None and (self.until is None or until > self.until):
            self.until = until

    def succeeded(self) -> None:
        """Reset the pause and the count after a successful boot."""
        self.failures = 0
        self.until = self.final = None

    def gave_up(self) -> int:
        """Reset the count and return it. The pause stays: otherwise `min` boots without any pause."""
        failures, self.failures, self.final = self.failures, 0, None
        return failures

    def demanded(self) -> None:
        """Cancel the pause if new calls come after the pool gave up: the first boot need not wait."""
        if self.failures == 0:
            self.until = None

    def holds(self, now: float) -> bool:
        """Return whether boots must wait."""
        if self.until is not None and self.until <= now:
            self.until = None
        return self.until is not None


class BootPlaces:
    """The boots that a backend runs at once, by runner, and their maximum number.

    Attributes:
        at_most: maximum number of concurrent boots.
        hung: boots that the pool has ended while the backend still blocks in them. They keep their places.
    """

    def __init__(self, at_most: int) -> None:
        self.at_most: Final = at_most
        self.hung: set[int] = set()
        self._taken: set[int] = set()

    @property
    def free(self) -> int:
        """Return how many boots may begin."""
        return self.at_most - len(self._taken) - len(self.hung)

    @property
    def all_hang(self) -> bool:
        """Return whether no boot can begin and none is pending."""
        return len(self.hung) >= self.at_most

    def take(self, runner_id: int) -> None:
        """Take a place for a boot that begins."""
        self._taken.add(runner_id)

    def leave(self, runner_id: int, *, hangs: bool = False) -> None:
        """Release the place of a boot that ended, unless the backend still blocks in it (`hangs`)."""
        if hangs and runner_id in self._taken:
            self.hung.add(runner_id)
        self._taken.discard(runner_id)

    def returned(self, runner_id: int) -> bool:
        """Release the place of a hung boot from which the backend has returned.

        Returns:
            False if this boot was not hung.
        """
        known = runner_id in self.hung
        self.hung.discard(runner_id)
        return known
