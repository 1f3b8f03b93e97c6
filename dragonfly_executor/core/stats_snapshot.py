"""The computation of a pool's statistics from its state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dragonfly_executor.core.call_errors import used_up
from dragonfly_executor.core.runners import Row
from dragonfly_executor.core.state import PoolState
from dragonfly_executor.core.stats import CapacityStats, LazyRunnerStats, PoolStats, RunnerStats, TierStats
from dragonfly_executor.core.tier import Tier
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


def summarize(pool: PoolState, now: float) -> PoolStats:
    """Return a snapshot of the pool at `now` (monotonic seconds).

    The function walks neither calls nor runners: the records of runners are made on first access.
    """
    call_table, runner_table = pool.call_table, pool.runner_table
    counts: dict[str, Any] = vars(pool.counters)
    # Not `BackOff.holds`, which ends a pause that is over: to be asked must change nothing.
    ends = [group.back_off.until for group in pool.runner_table.all_groups]
    back_off_until = min((end for end in ends if end is not None and end > now), default=None)
    rows, usage, tiers = list(runner_table.rows.values()), pool.usage.snapshot(), dict(runner_table.later)
    return PoolStats(
        min=pool.min,
        max=pool.max,
        runners_up=runner_table.up,
        runners_booting=len(runner_table.booting),
        runners_stopping=len(runner_table.runners) - runner_table.up - len(runner_table.booting),
        runners_idle=runner_table.idle + sum(len(group.idle_check_pending) for group in runner_table.all_groups),
        runners=LazyRunnerStats(lambda: tuple(_runner(row, usage, tiers, now) for row in rows)),  # type: ignore[arg-type]
        boots_queued=runner_table.queued,
        slots_busy=runner_table.busy,
        slots_free=runner_table.slots - runner_table.busy,
        calls_queued=call_table.waiting - call_table.delayed,
        calls_delayed=call_table.delayed,
        calls_sent=len(call_table.calls) - call_table.waiting,
        calls_running=call_table.started,
        **counts,
        last_boot_error=None if pool.last_boot_error is None else str(pool.last_boot_error),
        back_off_until=back_off_until,
        limits_that_bind=tuple(_binding(pool, back_off_until is not None)),
        machine_seconds=pool.usage.seconds(now),
        cost=pool.usage.cost(now),
        prices_as_of=pool.usage.caps.as_of,
        tiers=tuple([_tier(pool, tier, now) for tier in runner_table.tiers]) if pool.is_tiered else (),
    )


def _tier(pool: PoolState, tier: Tier, now: float) -> TierStats:
    groups = pool.runner_table.groups_on(tier)
    up, booting = sum([group.up for group in groups]), sum([len(group.booting) for group in groups])
    slots, busy = sum([group.slots for group in groups]), sum([group.busy for group in groups])
    passed_over: str | None = None
    if tier.usage.exhausted:
        passed_over = used_up(tier.usage, now, tier.limits.name)
    elif any(group.passed_over for group in groups):
        passed_over = str(tier.last_error)
    return TierStats(
        name=tier.limits.name,
        max=tier.limits.max,
        runners_up=up,
        runners_booting=booting,
        runners_stopping=tier.count - up - booting,
        runners_idle=sum([len(group.idle) + len(group.idle_check_pending) for group in groups]),
        slots_busy=busy,
        slots_free=slots - busy,
        boots_failed=sum([group.back_off.failures for group in groups]),
        passed_over=passed_over,
        boot_seconds=tier.boot_seconds,
        machine_seconds=tier.usage.seconds(now),
        cost=tier.usage.cost(now),
    )


def _runner(
    row: Row, usage: Mapping[int, tuple[float, float | None]], tiers: Mapping[int, int], now: float
) -> RunnerStats:
    runner_id, state, slots, in_flight, done, capacity = row
    since, price = usage.get(runner_id, (now, 0.0))
    seconds = max(0.0, now - since)
    cost = None if price is None else price * seconds
    has = None if capacity is None else CapacityStats.of(capacity)
    return RunnerStats(runner_id, state.value, slots, in_flight, done, seconds, cost, has, tiers.get(runner_id, 0))


def _binding(pool: PoolState, holds: bool) -> Iterator[str]:
    runners, workers = pool.runner_table, pool.limits.max_workers
    groups = runners.all_groups
    waits = pool.call_table.queued + sum(group.ahead for group in groups) > 0
    if waits and len(runners.runners) >= pool.max:
        yield "max"
    coming = sum(len(group.booting) * pool.slots_hint(group) for group in groups)
    if waits and workers is not None and runners.slots + coming >= workers:
        yield "max_workers"
    if waits and any(tier.boots.free <= 0 for tier in runners.tiers):
        yield "max_concurrent_boots"
    if waits and pool.limits.thrifty and runners.slots and not all(map(pool.has_boots_for_all, runners.groups)):
        yield "thrifty"
    if holds:
        yield "back-off"
    if pool.usage.exhausted:
        yield "budget"
    if pool.mode is not None:
        yield "shutdown"
    if pool.broken is not None:
        yield "broken"
