"""Spare runners: the runners that a pool keeps ahead of its calls, so that the next calls need not wait for a boot.

1. While calls without `requires` run or wait, enough runners boot that `PoolLimits.spare` runners are up or boot
   beside the runners whose slots the calls take. Every bound on boots holds, and calls come first: none of these boots
   begins while calls wait for which no runner boots.
2. Such a runner is not stopped for being idle meanwhile. The idle time of all of them begins when the last call has
   ended. So calls that come one by one do not stop a runner and boot it again, each time.
3. A spare runner is no reason to stop another one, and it is stopped if another kind of calls needs its room.
"""

from __future__ import annotations

from dragonfly_executor.core.calls import DEFAULT_KIND
from dragonfly_executor.core.room import boots_allowed
from dragonfly_executor.core.runner_group import RunnerGroup
from dragonfly_executor.core.scaling import boots_for
from dragonfly_executor.core.sharing import slots_allowed
from dragonfly_executor.core.state import PoolState


def is_used(pool: PoolState) -> bool:
    """Return whether calls without requirements run or wait."""
    queue = pool.call_table.queue_of(DEFAULT_KIND)
    if queue.queued or queue.delayed:
        return True
    return any(group.in_flight for group in pool.runner_table.groups[DEFAULT_KIND])


def uncovered(pool: PoolState) -> int:
    """Return how many more runners the waiting calls fill than boot; negative if more boot than they need."""
    groups = pool.runner_table.groups[DEFAULT_KIND]
    needed = boots_for(pool.waiting_calls(DEFAULT_KIND), pool.slots_hint(groups[0]))
    return needed - sum([len(group.booting) for group in groups])


def ahead(pool: PoolState) -> int:
    """Return how many more runners are up or boot than the present calls fill; negative if more are needed."""
    count = -uncovered(pool)
    for group in pool.runner_table.groups[DEFAULT_KIND]:
        going = len(group.yielding) + len(group.ending.runners) + len(group.idle_check_pending)
        count += group.up - going - boots_for(group.busy, pool.slots_hint(group))
    return count


def keep_spares(pool: PoolState, now: float, *, is_late: bool) -> None:
    """Note whether the pool is used, and boot the spare runners that are missing, unless calls are late."""
    was_used, pool.is_used = pool.is_used, is_used(pool)
    if was_used or pool.is_used:
        # The idle time of spare runners begins at the last of these events.
        pool.used_at = now
    if pool.is_used and not is_late:
        boot_spares(pool, now)


def boot_spares(pool: PoolState, now: float) -> None:
    """Boot the spare runners that are missing, after the boots that calls need."""
    if pool.mode is not None or pool.broken is not None or pool.usage.exhausted:
        return
    if uncovered(pool) > 0 or any(group.gate is not None for group in pool.runner_table.all_groups):
        return  # calls wait that have no boot yet, or for the room of another kind: they come first
    missing = pool.limits.spare - ahead(pool)
    for group in pool.runner_table.groups[DEFAULT_KIND]:
        if missing <= 0:
            return
        count = min(missing, spares_allowed(pool, group, now))
        for _ in range(count):
            pool.boot(group)
        missing -= count


def spares_allowed(pool: PoolState, group: RunnerGroup, now: float) -> int:
    """Return how many spare runners may boot on a tier now."""
    # While boots fail, only the calls decide how often it is tried: after some failures they are given up.
    if group.back_off.holds(now) or group.back_off.failures or pool.is_at_last_boots(group):
        return 0
    if pool.is_tiered and not pool.may_boot(group):
        return 0
    count, slots = boots_allowed(pool, group.tier), slots_allowed(pool, group)
    if slots is not None:
        count = min(count, boots_for(slots, pool.slots_hint(group)) - len(group.booting))
    return max(0, count)
