"""Boots, and how the kinds of runners share `max`. Each tier of a pool with several backends does so by itself.

1. A kind boots what its own waiting calls need, and the default kind what is missing from `min`.
2. If `max` has no room for all boots, each kind without a runner gets one first; then the kind whose call has waited
   longest gets what it needs. The order among the former is that of rule 5.
3. If there is no room at all, idle runners and needless boots of other kinds are stopped. The runners within `min`
   stay, and those whose own kind has waiting calls.
4. If a kind still has waiting calls and no runner, another kind gives up a runner, `min` or not: its least-loaded one
   takes no more calls, and stops once it has none. The kind with the most runners gives.
5. No kind gives up a runner before it has sent the calls that were there when the other kind began to wait. So calls
   that came first are served first, kinds that compete for one runner take turns with batches of calls, and no kind
   waits for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter, itemgetter

from dragonfly_executor.core.losses import end_pauses
from dragonfly_executor.core.overflow import Promises, calls_left, next_overflows, room_coming
from dragonfly_executor.core.runner import Runner
from dragonfly_executor.core.runner_endings import calls_to_replace
from dragonfly_executor.core.runner_group import RunnerGroup
from dragonfly_executor.core.scaling import boots_for, boots_needed
from dragonfly_executor.core.state import PoolState
from dragonfly_executor.core.tier import Tier
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TypeAlias

Wants: TypeAlias = dict[RunnerGroup, int]
"""Boots that each kind needs."""


def grow(pool: PoolState, now: float) -> bool:
    """Boot the runners that the waiting calls need, and those that are missing from `min`.

    Returns:
        True if calls must be assigned again: runners were stopped to make room for another kind, or need not go.
    """
    table = pool.runner_table
    if len(table.all_groups) == 1:
        group = table.default
        count = boots_wanted(pool, group, group.ahead + pool.call_table.total.queued, now)
        for _ in range(min(count, pool.max - len(table.runners), group.tier.boots.free)):
            pool.boot(group)
        return False
    changed, promised = False, Promises()
    if pool.is_tiered:
        end_pauses(pool, now)
    for tier in table.tiers:
        if len(table.groups) == 1 and room_coming(pool, tier) <= 0:
            # Only boots of other kinds could still change something here. But ask: this ends a pause that is over.
            table.default_on(tier).back_off.holds(now)
            continue
        wants = wants_of(pool, tier, promised, now)
        if wants:
            boot_in_turn(pool, tier, wants)
        changed |= make_room(pool, tier, wants)
        if wants and pool.is_tiered:
            promised.add(pool, tier, wants)
    return changed


def wants_of(pool: PoolState, tier: Tier, promised: Promises, now: float) -> Wants:
    """Return the boots that the kinds need on a tier."""
    wants: Wants = {}
    for group in pool.runner_table.groups_on(tier):
        waiting = calls_left(pool, group, promised, now) if tier.index else pool.waiting_for(group)
        count = boots_wanted(pool, group, waiting, now)
        if count > 0:
            wants[group] = count
    return wants


def boots_wanted(pool: PoolState, group: RunnerGroup, waiting: int, now: float) -> int:
    """Return how many boots a kind needs on a tier for the calls that wait, no matter what other kinds need."""
    # Ask in any case: this ends a pause that is over.
    paused = group.back_off.holds(now)
    booting, up = len(group.booting), group.up - len(group.ending.runners)
    keep, replaced = pool.keep_of(group), calls_to_replace(pool, group)
    if waiting <= 0 and not replaced and up + booting >= keep:
        return 0
    if paused or not pool.starts_calls or pool.usage.exhausted or pool.is_at_last_boots(group):
        return 0
    if pool.is_tiered and not pool.may_boot(group):
        return 0
    if group.thrifty is not None and waiting > 0:
        waiting = min(waiting, boots_that_pay(pool, group, waiting, now) * pool.slots_hint(group))
    return boots_needed(
        waiting=max(0, waiting) + replaced,
        up=up,
        booting=booting,
        total=group.staying,
        at_least=keep,
        at_most=pool.most_of(group),
        slots_hint=pool.slots_hint(group),
        slots_allowed=slots_allowed(pool, group),
    )


def boots_that_pay(pool: PoolState, group: RunnerGroup, waiting: int, now: float) -> int:
    """Return how many runners of a kind should be booting in a thrifty pool, for calls that wait.

    One boots if no runner takes calls. If a call has waited for too long, as many boot as are up, because the
    measurements must be wrong.
    """
    if group.thrifty is None:
        return boots_for(waiting, pool.slots_hint(group))
    slots = group.slots - group.ending.slots
    boots = group.thrifty.boots(
        waiting, slots, pool.slots_hint(group), now, pool.call_table.queue_of(group.kind).key_costs
    )
    if group.up <= len(group.yielding) + len(group.ending.runners):
        boots = max(1, boots)
    due = overdue_at(pool, group)
    return max(1, boots, group.up) if due is not None and due <= now else boots


def overdue_at(pool: PoolState, group: RunnerGroup) -> float | None:
    """Return when the next call of a kind has waited for too long in a thrifty pool, in monotonic seconds."""
    first = pool.call_table.queue_of(group.kind).first()
    if first is None or group.thrifty is None:
        return None
    after = group.thrifty.overdue_after()
    return None if after is None else first.waits_since + after


def next_review(pool: PoolState) -> float | None:
    """Return when time alone may change the number of boots for the calls that wait; None = never."""
    first: float | None = None
    for group in pool.runner_table.all_groups:
        if is_waiting(pool, group):
            times = []
            if group.thrifty is not None:
                times += [overdue_at(pool, group), group.thrifty.next_review()]
            if group.tier.index:
                times += next_overflows(pool, group, pool.runner_table.now)
            for when in times:
                # What is in the past was reviewed. If no boot could begin then, an event says when one can.
                if when is not None and when > pool.runner_table.now and (first is None or when < first):
                    first = when
    return first


def slots_allowed(pool: PoolState, group: RunnerGroup) -> int | None:
    """Return how many slots a kind may add before `max_workers` makes more slots useless; None = any number.

    Idle slots of other kinds do not count, and a kind without a runner may have one: its calls need a slot of its own.
    """
    workers = pool.limits.max_workers
    if workers is None:
        return None
    others = pool.runner_table.in_flight - group.in_flight
    return max(workers - group.slots + group.ending.slots - others, 0 if pool.is_served(group) else 1)


def boot_in_turn(pool: PoolState, tier: Tier, wants: Wants) -> None:
    """Boot as many of these runners as `max` and the backend allow, and leave the rest in `wants`."""
    room = min(pool.max - len(pool.runner_table.runners), tier.boots.free)
    if tier.limits.max is not None:
        room = min(room, tier.limits.max - tier.count)
    if room <= 0:
        return
    if room < sum(wants.values()):
        # Each kind without a runner gets one, before others get more.
        for group in sorted(wants, key=lambda group: turn(pool, group)):
            if not pool.is_served(group) and room:
                room -= boot(pool, wants, group, 1)
    for group in sorted(wants, key=lambda group: turn(pool, group)):
        room -= boot(pool, wants, group, min(room, wants[group]))


def boot(pool: PoolState, wants: Wants, group: RunnerGroup, count: int) -> int:
    """Boot `count` runners of a kind, and return their number."""
    for _ in range(count):
        pool.boot(group)
        group.gate = None
    wants[group] -= count
    return count


def turn(pool: PoolState, group: RunnerGroup) -> tuple[bool, float, float]:
    """Return a kind's place in the order of boots: the smaller value comes first."""
    priority, call_id = pool.call_table.queue_of(group.kind).turn()
    return (True, priority, call_id) if group.gate is None else (False, priority, group.gate)


def make_room(pool: PoolState, tier: Tier, wants: Wants) -> bool:
    """Have other kinds make room for the boots that are left in `wants`. All of this is about one tier.

    Returns:
        True if other runners may take calls now: a runner need not make room any more, or `max_workers` no longer keeps
        slots free because a runner was stopped.
    """
    groups = pool.runner_table.groups_on(tier)
    missing, going, stopped = sum(wants.values()), room_coming(pool, tier), 0
    if missing > going and tier.boots.free > 0:
        stopped = stop_needless(pool, groups, missing - going)
        going += stopped
    waiting: list[RunnerGroup] = []
    if not tier.boots.all_hang:
        waiting = [
            group for group, count in wants.items() if count and not pool.is_served(group) and is_waiting(pool, group)
        ]
    for group in groups:
        if group not in waiting:
            group.gate = None
        elif group.gate is None:
            group.gate = pool.call_table.newest
    # A kind whose runner yields needs no other runner, if that one need not yield any more.
    takers = [group for group in sorted(waiting, key=lambda group: turn(pool, group)) if not group.yielding]
    needed = max(0, len(takers) - going)
    yielding = sum(len(group.yielding) for group in groups)
    for group in takers:
        if yielding < needed and tier.boots.free > 0:
            yielding += give_runner(pool, groups, waiting, group)
    ended = end_yields(pool, groups, yielding - needed)
    if ended and missing > room_coming(pool, tier) and tier.boots.free > 0:
        # The kind that keeps this runner may have another one to spare now.
        stop_needless(pool, groups, missing - room_coming(pool, tier))
    return ended or stopped > 0


def fit_yields(pool: PoolState, now: float) -> None:
    """Let runners that yield take calls again, as far as their room is not needed.

    This step comes before calls are assigned.
    """
    for tier in pool.runner_table.tiers:
        groups = pool.runner_table.groups_on(tier)
        yielding = sum([len(group.yielding) for group in groups])
        if not yielding:
            continue
        takers = 0
        for group in groups:
            if not pool.is_served(group) and not group.yielding and is_waiting(pool, group):
                takers += boots_wanted(pool, group, pool.waiting_for(group), now) > 0
        end_yields(pool, groups, yielding - max(0, takers - max(0, room_coming(pool, tier))))


def give_runner(
    pool: PoolState, groups: Sequence[RunnerGroup], waiting: Sequence[RunnerGroup], taker: RunnerGroup
) -> bool:
    """Have one runner of another of these kinds take no more calls, so that `taker` gets its room.

    Returns:
        False if no kind may give a runner yet.
    """
    gate = taker.gate or 0
    givers: list[tuple[int, RunnerGroup]] = []
    for group in groups:
        count = group.up - len(group.yielding)
        if count and group not in waiting:
            first = pool.call_table.queue_of(group.kind).first()
            if first is None or first.id > gate:
                givers.append((count, group))
    if not givers:
        return False
    pool.runner_table.make_yield(max(givers, key=itemgetter(0))[1])
    return True


def end_yields(pool: PoolState, groups: Sequence[RunnerGroup], count: int) -> bool:
    """Let `count` runners take calls again, and return whether there was one."""
    found = False
    for group in groups:
        while group.yielding and count > 0:
            pool.runner_table.end_yield(group)
            count -= 1
            found = True
    return found


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
