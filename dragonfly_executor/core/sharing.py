"""Boots, and how the kinds of runners share `max`. With several backends, each tier does so by itself.

If only the pool's `max` is in the way of a boot on one tier, rules 3 to 5 are about the runners of all tiers.

1. A kind boots what its own waiting calls need, and the default kind what is missing from `min`.
2. If `max` has no room for all boots, each kind without a runner gets one first; then the kind whose call has waited
   longest gets what it needs. The order among the former is that of rule 5.
3. If there is no room at all, idle runners and needless boots of other kinds are stopped. The runners within `min`
   stay, and those whose own kind has waiting calls.
4. If a kind still has waiting calls and no runner, another kind gives up a runner, `min` or not: its least-loaded
   runner takes no more calls, and stops after its last call. The kind with the most runners gives.
5. A kind first sends the calls that it had when the other kind began to wait. Only then does it give up a runner. So
   calls that came first are served first, kinds that compete for one runner take turns with batches of calls, and no
   kind waits for ever.
"""

from __future__ import annotations

from dragonfly_executor.core.losses import end_pauses
from dragonfly_executor.core.make_room import (
    Wants,
    end_needless_yields,
    is_waiting,
    make_room,
    turn,
    update_gates,
    yielding_in,
    yields,
)
from dragonfly_executor.core.overflow import Promises, calls_left, next_overflows
from dragonfly_executor.core.room import boots_allowed, pool_room_coming, room_coming
from dragonfly_executor.core.runner_endings import calls_to_replace
from dragonfly_executor.core.runner_group import RunnerGroup
from dragonfly_executor.core.scaling import boots_for, boots_needed
from dragonfly_executor.core.state import PoolState
from dragonfly_executor.core.tier import Tier


def grow(pool: PoolState, now: float) -> bool:
    """Boot the runners that the waiting calls need, and the runners that `min` lacks.

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
    wanted: dict[Tier, Wants] = {}
    promised = Promises()
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
        wanted[tier] = wants
        if wants and pool.is_tiered:
            promised.add(pool, tier, wants)
    if pool.is_tiered and len(table.groups) > 1:
        # Room that was reserved may not be needed after all.
        for tier, wants in wanted.items():
            update_gates(pool, tier, wants)
        for tier, wants in wanted.items():
            boot_in_turn(pool, tier, wants)
    return make_room(pool, wanted)


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
    due = thrifty_overdue_at(pool, group)
    return max(1, boots, group.up) if due is not None and due <= now else boots


def thrifty_overdue_at(pool: PoolState, group: RunnerGroup) -> float | None:
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
                times += [thrifty_overdue_at(pool, group), group.thrifty.next_review()]
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
    others = pool.runner_table.in_flight - group.in_flight - pool.runner_table.lent
    return max(workers - group.slots + group.ending.slots - others, 0 if pool.is_served(group) else 1)


def boot_in_turn(pool: PoolState, tier: Tier, wants: Wants) -> None:
    """Boot as many of these runners as `max` and the backend allow, and leave the rest in `wants`."""
    room = boots_allowed(pool, tier)
    if not room:
        return
    if room < sum(wants.values()):
        # Each kind without a runner gets one, before others get more.
        for group in sorted(wants, key=lambda group: turn(pool, group)):
            if not pool.is_served(group) and room > reserved(pool, group):
                room -= boot(pool, wants, group, 1)
    for group in sorted(wants, key=lambda group: turn(pool, group)):
        room -= boot(pool, wants, group, max(0, min(room - reserved(pool, group), wants[group])))


def reserved(pool: PoolState, group: RunnerGroup) -> int:
    """Return for how many boots of other tiers room is kept: those of kinds without a runner whose turn is earlier."""
    table = pool.runner_table
    if not pool.is_tiered or len(table.groups) == 1:
        return 0
    kinds: set[str] = set()
    for tier in table.tiers:
        if tier is not group.tier and tier.boots.free > 0:
            room = len(kinds) + max(0, room_coming(pool, tier))
            for other in table.groups_on(tier):
                if len(kinds) < room and other.kind != group.kind and comes_before(pool, other, group):
                    kinds.add(other.kind)
    # These have the room of runners that stop now.
    coming = pool_room_coming(pool) - (pool.max - len(table.runners))
    return max(0, len(kinds) - coming)


def comes_before(pool: PoolState, other: RunnerGroup, group: RunnerGroup) -> bool:
    """Return whether another group waits for room, and its turn is before that of this one."""
    if other.gate is None or pool.is_served(other) or not is_waiting(pool, other):
        return False
    return turn(pool, other) < turn(pool, group)


def boot(pool: PoolState, wants: Wants, group: RunnerGroup, count: int) -> int:
    """Boot `count` runners of a kind, and return their number."""
    for _ in range(count):
        pool.boot(group)
        group.gate = None
    wants[group] -= count
    return count


def fit_yields(pool: PoolState, now: float) -> bool:
    """Let runners that yield take calls again, as far as their room is not needed.

    This step comes before calls are assigned.

    Returns:
        Whether there was one.
    """
    table = pool.runner_table
    if not yielding_in(table.all_groups):
        return False
    takers = {
        tier: [
            group
            for group in table.groups_on(tier)
            if not pool.is_served(group)
            and not yields(pool, group.kind)
            and is_waiting(pool, group)
            and boots_wanted(pool, group, pool.waiting_for(group), now) > 0
        ]
        for tier in table.tiers
    }
    return end_needless_yields(pool, takers)
