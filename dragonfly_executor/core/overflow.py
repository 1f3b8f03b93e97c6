"""The calls that a later tier of a pool boots for: those that the earlier tiers do not begin in time.

In time is within the later tier's boot time.

1. A slot of an earlier tier begins as many calls in that time as their mean seconds allow. While no call has ended, a
   call is taken to need the time since one was first reported to run, less half a second: the first call of a slot
   imports modules. A slot whose call has run for much longer than the mean begins none.
2. A runner of an earlier tier that boots, or is about to, begins at least one call with each slot. While nothing is
   known of the calls, it is taken to begin all of them.
3. Whatever these estimates say, a call that has waited for the boot time of a tier is not in time.

Calls that the earlier tiers begin soon are not sent to a later tier either, though it has a free slot. Soon is within
half of a call's mean seconds. So a load that the earlier tiers can carry keeps no runner of a later tier.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, floor, inf

from dragonfly_executor.core.call_costs import LEAST, LONG, CallCosts
from dragonfly_executor.core.call_queue import CallQueue
from dragonfly_executor.core.room import boots_allowed, room_coming
from dragonfly_executor.core.runner_group import RunnerGroup
from dragonfly_executor.core.scaling import boots_for
from dragonfly_executor.core.state import PoolState
from dragonfly_executor.core.tier import Tier
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

ROUNDING: Final = 1e-6
"""Number of calls that may be due to the arithmetic alone."""
SOON: Final = 0.5
"""Share of the mean seconds of a call for which a call may wait for an earlier tier while a later one is free."""
SOON_AT_MOST: Final = 0.1
"""Maximum of that time, in boot times of the later tier."""
LOADING: Final = 0.5
"""Seconds after a call began that do not count while no call has ended: the first call of a slot imports modules."""
LEAST_LONG: Final = 0.2
"""Share of a later tier's boot time for which a call must have run before it counts as long."""


class Promises:
    """The boots of earlier tiers that are wanted, and have not begun though the tier will have room for them."""

    def __init__(self) -> None:
        self._boots: dict[RunnerGroup, int] = {}

    def add(self, pool: PoolState, tier: Tier, wants: dict[RunnerGroup, int]) -> None:
        """Add the boots of a tier that are left in `wants`."""
        for group, count in wants.items():
            self._boots[group] = max(0, min(count, room_coming(pool, tier)))

    def of(self, pool: PoolState, group: RunnerGroup, waiting: int) -> int:
        """Return the number of boots of a group that will begin for its waiting calls."""
        # During a pause, a group wants no boots yet. They begin when it ends.
        if group.back_off.until is None or not pool.may_boot(group):
            return self._boots.get(group, 0)
        return max(0, min(boots_for(waiting, pool.slots_hint(group)), room_coming(pool, group.tier)))


def calls_left(pool: PoolState, group: RunnerGroup, promised: Promises, now: float) -> int:
    """Return how many calls of a group's kind the earlier tiers do not begin in time.

    Args:
        pool: the state.
        group: the group of a later tier.
        promised: the boots that earlier tiers are about to begin.
        now: monotonic seconds.
    """
    waiting = pool.waiting_calls(group.kind)
    if waiting <= 0:
        return 0
    slots, coming, least = slots_before(pool, group), 0.0, 0
    in_time, seconds = group.tier.boot_seconds, seconds_of_call(pool, group, now)
    for earlier in pool.runner_table.groups[group.kind][: group.tier.index]:
        boots = len(earlier.booting) + promised.of(pool, earlier, waiting)
        least += boots * pool.slots_hint(earlier)
        if seconds:
            left = in_time - earlier.tier.boot_seconds
            coming += boots * pool.slots_hint(earlier) * max(1.0, left / seconds)
    if not slots and not least:
        return waiting
    when, overdue = tier_overdue_at(pool, group), 0
    if when is not None and when <= now:
        overdue = min(waiting, pool.slots_hint(group) * max(1, group.up)) if slots else waiting
    if not seconds:
        return overdue
    left = waiting - coming - slots * in_time / seconds * share(pool, group)
    if is_known(pool, group):
        return max(overdue, ceil(left - ROUNDING))
    # The calls run on, so the estimate only grows: count the call that it is about to reach.
    return max(overdue, min(waiting, floor(left + ROUNDING) + 1))


def calls_begun_soon(pool: PoolState, queue: CallQueue, group: RunnerGroup, now: float) -> int:
    """Return how many of the next calls of a queue the earlier tiers begin soon, so that a later tier need not.

    That is none if the first call has waited for long enough, if no call has ended yet, or if each call takes a stated
    share of its runner: slots do not say then how many calls can begin.

    Args:
        pool: the state.
        queue: the queue.
        group: the group of its kind on the later tier.
        now: monotonic seconds.
    """
    if pool.runner_table.placements.by_kind[group.kind].shares:
        return 0
    first, after = queue.first(), soon(pool, group, now)
    if first is None or after is None or first.waits_since + after <= now:
        return 0
    seconds = seconds_of_call(pool, group, now) or inf
    return int(slots_before(pool, group) * after / seconds * share(pool, group))


def soon(pool: PoolState, group: RunnerGroup, now: float) -> float | None:
    """Return for how many seconds a call may wait for an earlier tier while this one has a free slot; None = 0."""
    seconds = seconds_of_call(pool, group, now) if is_known(pool, group) else None
    return None if seconds is None else min(SOON * seconds, SOON_AT_MOST * group.tier.boot_seconds)


def slots_before(pool: PoolState, group: RunnerGroup) -> int:
    """Return how many slots of earlier tiers can be expected to begin calls of a group's kind."""
    placement = pool.runner_table.placements.by_kind[group.kind]
    slots = sum(placement.slots[: group.tier.index])
    for costs in costs_before(pool, group):
        if costs.mean.value is not None:
            slots -= len(costs.long)
    return max(0, slots)


def note_long_calls(pool: PoolState, now: float) -> None:
    """Note the calls of earlier tiers that are long by now, if calls wait.

    This step comes before calls are assigned. Queries must not do this: it changes what the calls are taken to need.
    """
    table = pool.runner_table
    if not pool.call_table.total.queued and not any(group.ahead for group in table.all_groups):
        return
    boot_seconds = inf
    for tier in reversed(table.tiers):
        if boot_seconds < inf:
            for group in table.groups_on(tier):
                costs = group.costs
                if costs is not None and costs.mean.value is not None:
                    # A thrifty pool has a limit of its own.
                    is_thrifty = group.thrifty is not None
                    after = costs.long_after if is_thrifty else long_after(boot_seconds, costs.mean.value)
                    if after is not None:
                        costs.review(now, after)
        boot_seconds = min(boot_seconds, tier.boot_seconds)


def costs_before(pool: PoolState, group: RunnerGroup) -> Iterator[CallCosts]:
    """Yield how long calls take in the groups of earlier tiers, those of the same kind first."""
    table = pool.runner_table
    for earlier in table.groups[group.kind][: group.tier.index]:
        if earlier.costs is not None:
            yield earlier.costs
    for kind, groups in table.groups.items():
        if kind != group.kind:
            for earlier in groups[: group.tier.index]:
                if earlier.costs is not None:
                    yield earlier.costs


def long_after(boot_seconds: float, mean: float) -> float:
    """Return after how many seconds a running call counts as long, before a later tier with this boot time."""
    return max(LONG * mean, LEAST_LONG * boot_seconds)


def is_known(pool: PoolState, group: RunnerGroup) -> bool:
    """Return whether a call has ended on an earlier tier."""
    return any(costs.mean.value is not None for costs in costs_before(pool, group))


def first_began_at(pool: PoolState, group: RunnerGroup) -> float | None:
    """Return when the first call was reported to run on earlier tiers, in monotonic seconds; None if none was."""
    times = [costs.began_at for costs in costs_before(pool, group)]
    return min([when for when in times if when is not None], default=None)


def seconds_of_call(pool: PoolState, group: RunnerGroup, now: float) -> float | None:
    """Return the expected seconds of a call on earlier tiers; None if nothing is known of them."""
    for costs in costs_before(pool, group):
        if costs.mean.value is not None:
            return max(costs.mean.value, LEAST)
    since = first_began_at(pool, group)
    return None if since is None else max(0.0, now - since - LOADING)


def share(pool: PoolState, group: RunnerGroup) -> float:
    """Return the share of the waiting calls that are of a group's kind: their part of the slots of earlier tiers."""
    waiting = pool.call_table.total.queued + sum([each.ahead for each in pool.runner_table.all_groups])
    return pool.waiting_calls(group.kind) / max(1, waiting)


def tier_overdue_at(pool: PoolState, group: RunnerGroup) -> float | None:
    """Return when the next call of a kind has waited for the boot time of a later tier; None if no call waits."""
    since = pool.call_table.queue_of(group.kind).waits_since()
    return None if since is None else since + group.tier.boot_seconds


def next_overflows(pool: PoolState, group: RunnerGroup, now: float) -> list[float | None]:
    """Return when time alone may change what is to be done with the waiting calls of a group of a later tier."""
    times: list[float | None] = []
    if pool.runner_table.busy < pool.runner_table.slots:
        first, after = pool.call_table.queue_of(group.kind).first(), soon(pool, group, now)
        if first is not None and after is not None:
            times.append(first.waits_since + after)
    if not boots_allowed(pool, group.tier):
        return times
    times.append(tier_overdue_at(pool, group))
    if not is_known(pool, group):
        since = first_began_at(pool, group)
        rest = pool.waiting_calls(group.kind) - len(group.booting) * pool.slots_hint(group)
        for earlier in pool.runner_table.groups[group.kind][: group.tier.index]:
            rest -= len(earlier.booting) * pool.slots_hint(earlier)
        if since is not None and rest > 0:
            slots = slots_before(pool, group) * share(pool, group)
            times.append(since + LOADING + slots * group.tier.boot_seconds / rest)
        return times
    if group.thrifty is None:
        for costs in costs_before(pool, group):
            since = costs.oldest_sent
            if costs.mean.value is not None and since is not None:
                times.append(since + long_after(group.tier.boot_seconds, costs.mean.value))
    return times
