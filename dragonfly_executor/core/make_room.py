"""Room for boots: kinds of calls with spare runners stop them or give them up, for kinds without runners.

The rules are in `sharing`. First the runners of the same tier go. If only the pool's `max` is in the way of a boot,
runners of other tiers go as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter, itemgetter

from dragonfly_executor.core.room import pool_room_coming, room_coming
from dragonfly_executor.core.runner import Runner
from dragonfly_executor.core.runner_endings import calls_to_replace
from dragonfly_executor.core.runner_group import RunnerGroup
from dragonfly_executor.core.scaling import boots_for
from dragonfly_executor.core.state import PoolState
from dragonfly_executor.core.tier import Tier
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TypeAlias

Wants: TypeAlias = dict[RunnerGroup, int]
"""Boots that each kind needs on a tier."""


def make_room(pool: PoolState, wanted: dict[Tier, Wants]) -> bool:
    """Have other kinds make room for the boots that are left in `wanted`: on the same tier, and then on others.

    Returns:
        True if other runners may take calls now: a runner need not make room any more, or `max_workers` no longer keeps
        slots free because a runner was stopped.
    """
    changed, takers = False, {}
    for tier, wants in wanted.items():
        changed |= stop_for(pool, tier, wants)
        takers[tier] = takers_of(pool, tier, wants)
    for tier, takers_there in takers.items():
        give_runners(pool, tier, takers_there)
    if pool.is_tiered:
        give_across(pool, takers)
    if end_needless_yields(pool, takers):
        changed = True
        for tier, wants in wanted.items():
            # The kind that keeps a runner may have another one to spare now.
            stop_for(pool, tier, wants)
    return changed


def stop_for(pool: PoolState, tier: Tier, wants: Wants) -> bool:
    """Stop runners that are not needed, if there is no room for boots on a tier. Returns whether there were some."""
    table, missing = pool.runner_table, sum(wants.values())
    going = room_coming(pool, tier)
    if missing <= going or tier.boots.free <= 0:
        return False
    stopped = stop_needless(pool, table.groups_on(tier), missing - going)
    going += stopped
    if pool.is_tiered and missing > going and going == pool_room_coming(pool):
        # Runners of other tiers, which have no use for these calls, take the room of the whole pool.
        kinds = {group.kind for group in wants}
        others = [group for group in table.all_groups if group.tier is not tier and group.kind not in kinds]
        stopped += stop_needless(pool, others, missing - going)
    return stopped > 0


def takers_of(pool: PoolState, tier: Tier, wants: Wants) -> list[RunnerGroup]:
    """Return the groups of a tier for which other kinds give up a runner, the one first that comes first."""
    waiting = sorted(update_gates(pool, tier, wants), key=lambda group: turn(pool, group))
    # A kind whose runner yields needs no other runner, if that one need not yield any more.
    return [group for group in waiting if not yields(pool, group.kind)]


def update_gates(pool: PoolState, tier: Tier, wants: Wants) -> Sequence[RunnerGroup]:
    """Set the gates of the groups of a tier that begin to wait for the room of other kinds, and clear all others.

    Returns:
        The groups that wait.
    """
    waiting: list[RunnerGroup] = []
    if not tier.boots.all_hang:
        waiting = [
            group for group, count in wants.items() if count and not pool.is_served(group) and is_waiting(pool, group)
        ]
    for group in pool.runner_table.groups_on(tier):
        if group not in waiting:
            group.gate = None
        elif group.gate is None:
            group.gate = pool.call_table.newest
    return waiting


def yields(pool: PoolState, kind: str) -> bool:
    """Return whether a runner of a kind yields."""
    return any(group.yielding for group in pool.runner_table.groups[kind])


def yielding_in(groups: Iterable[RunnerGroup]) -> int:
    """Return how many runners of these groups yield."""
    return sum([len(group.yielding) for group in groups])


def needed_on(pool: PoolState, tier: Tier, takers: Sequence[RunnerGroup]) -> int:
    """Return how many runners have to yield for these groups of a tier."""
    return max(0, len(takers) - max(0, room_coming(pool, tier)))


def needed_in_all(pool: PoolState, takers: Mapping[Tier, Sequence[RunnerGroup]]) -> int:
    """Return how many runners of all tiers have to yield, because the pool's `max` has no room."""
    kinds = {group.kind for groups in takers.values() for group in groups}
    return max(0, len(kinds) - max(0, pool_room_coming(pool)))


def give_runners(pool: PoolState, tier: Tier, takers: Sequence[RunnerGroup]) -> None:
    """Have other kinds give up runners of a tier for these groups."""
    groups = pool.runner_table.groups_on(tier)
    yielding, needed = yielding_in(groups), needed_on(pool, tier, takers)
    for group in takers:
        if yielding < needed and tier.boots.free > 0:
            yielding += give_runner(pool, groups, group)


def give_across(pool: PoolState, takers: Mapping[Tier, Sequence[RunnerGroup]]) -> None:
    """Have other kinds give up runners of other tiers, if the pool's `max` is all that is in the way of a boot."""
    groups = pool.runner_table.all_groups
    yielding, needed = yielding_in(groups), needed_in_all(pool, takers)
    for tier, takers_there in takers.items():
        for group in takers_there:
            is_bound = room_coming(pool, tier) < pool_room_coming(pool)
            if yielding < needed and tier.boots.free > 0 and not is_bound:
                yielding += give_runner(pool, groups, group)


def end_needless_yields(pool: PoolState, takers: Mapping[Tier, Sequence[RunnerGroup]]) -> bool:
    """Let runners that yield take calls again, as far as these groups do not need their room.

    Returns:
        Whether there was one.
    """
    ended, spare = 0, yielding_in(pool.runner_table.all_groups) - needed_in_all(pool, takers)
    for tier in pool.runner_table.tiers:
        groups = pool.runner_table.groups_on(tier)
        count = yielding_in(groups) - needed_on(pool, tier, takers.get(tier, ()))
        ended += end_yields(pool, groups, min(count, spare - ended))
    return ended > 0


def turn(pool: PoolState, group: RunnerGroup) -> tuple[bool, float, float]:
    """Return a kind's place in the order of boots: the smaller value comes first."""
    priority, call_id = pool.call_table.queue_of(group.kind).turn()
    return (True, priority, call_id) if group.gate is None else (False, priority, group.gate)


def give_runner(pool: PoolState, groups: Sequence[RunnerGroup], taker: RunnerGroup) -> bool:
    """Have one runner of another of these kinds take no more calls, so that `taker` gets its room.

    Returns:
        False if no kind may give a runner yet.
    """
    gate = taker.gate or 0
    givers: list[tuple[int, RunnerGroup]] = []
    for group in groups:
        count = group.up - len(group.yielding)
        if pool.runner_table.lent:
            # A runner with a call that waits for its child calls is not given.
            count -= sum([bool(runner.lent) for runner in group.runners.values()])
        if count:
            first = pool.call_table.queue_of(group.kind).first()
            if first is None or first.id > gate:
                givers.append((count, group))
    if not givers:
        return False
    pool.runner_table.make_yield(max(givers, key=itemgetter(0))[1])
    return True


def end_yields(pool: PoolState, groups: Sequence[RunnerGroup], count: int) -> int:
    """Let at most `count` runners take calls again, and return their number."""
    ended = 0
    for group in groups:
        while group.yielding and count > 0:
            pool.runner_table.end_yield(group)
            count -= 1
            ended += 1
    return ended


def is_waiting(pool: PoolState, group: RunnerGroup) -> bool:
    """Return whether calls of this kind wait for a slot."""
    return pool.call_table.queue_of(group.kind).queued > 0


def stop_needless(pool: PoolState, groups: Sequence[RunnerGroup], count: int) -> int:
    """Stop boots and idle runners that these kinds do not need, at most `count`.

    Returns:
        The number of runners that were stopped.
    """
    stopped = 0
    for group in groups:
        needed = boots_for(pool.waiting_for(group) + calls_to_replace(pool, group), pool.slots_hint(group))
        up = group.up - len(group.ending.runners)
        needless = len(group.booting) - max(needed, pool.keep_of(group) - up)
        if needless > 0:
            needless = min(needless, count - stopped)
            pool.abort_boots(group.booting, needless, "room for another kind")
            stopped += needless
    while stopped < count:
        idle = [runner for group in groups if (runner := spare_runner(pool, group))]
        if not idle:
            break
        pool.stop(min(idle, key=attrgetter("idle_since", "id")), "room for another kind")
        stopped += 1
    return stopped


def spare_runner(pool: PoolState, group: RunnerGroup) -> Runner | None:
    """Return the runner of a kind that has been idle longest, if the kind does not need it now."""
    if is_waiting(pool, group) or group.staying <= pool.keep_of(group):
        return None
    for runner in group.idle.values():
        # A runner that retires is about to be stopped.
        if not runner.retiring:
            # Calls that wait on other runners for a slot may come back, and then need the slots of this runner.
            is_needed = group.load > group.slots - runner.slots or any(
                pool.call_table.queue_of(placement.kind).queued for placement in pool.runner_table.placements.of(runner)
            )
            return None if is_needed else runner
    return None
