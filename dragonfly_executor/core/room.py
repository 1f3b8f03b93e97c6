"""The number of runners for which a tier has room, now or soon."""

from __future__ import annotations

from dragonfly_executor.core.state import PoolState
from dragonfly_executor.core.tier import Tier


def boots_allowed(pool: PoolState, tier: Tier) -> int:
    """Return how many boots may begin on a tier now, as far as `max` and the backend's concurrent boots say."""
    count = min(pool.max - len(pool.runner_table.runners), tier.boots.free)
    if tier.limits.max is not None:
        count = min(count, tier.limits.max - tier.count)
    return max(0, count)


def room_coming(pool: PoolState, tier: Tier) -> int:
    """Return how many runners a tier has room for, now or once those are gone that go in any case."""
    table, room = pool.runner_table, pool_room_coming(pool)
    if tier.limits.max is not None:
        staying = sum([group.up + len(group.booting) for group in table.groups_on(tier)])
        going = sum([runner.tier == tier.index for runner in table.retiring.values()])
        room = min(room, tier.limits.max - staying + going)
    return room


def pool_room_coming(pool: PoolState) -> int:
    """Return how many runners the pool's `max` has room for, now or once those are gone that go in any case."""
    return len(pool.runner_table.retiring) - pool.excess
