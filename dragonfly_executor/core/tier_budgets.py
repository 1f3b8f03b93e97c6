"""The budgets of single tiers. The budget of the whole pool is in `reconcile`."""

from __future__ import annotations

from dragonfly_executor.core import call_errors
from dragonfly_executor.core.actions import Warn
from dragonfly_executor.core.runner import RunnerState
from dragonfly_executor.core.runner_endings import note_left
from dragonfly_executor.core.state import PoolState
from dragonfly_executor.core.tier import Tier


def next_tier_spent(pool: PoolState) -> float | None:
    """Return when the next tier has used up its budget, in monotonic seconds; None = never."""
    times = [tier.usage.until for tier in pool.runner_table.tiers if not tier.usage.exhausted]
    return min([when for when in times if when is not None], default=None)


def spend_tiers(pool: PoolState, now: float) -> None:
    """Apply the caps that tiers have reached."""
    for tier in pool.runner_table.tiers:
        if tier.usage.is_capped and tier.usage.check(now) and not tier.has_told_of_budget:
            tier.has_told_of_budget = True
            spend_no_more(pool, tier, now)


def spend_no_more(pool: PoolState, tier: Tier, now: float) -> None:
    """Have the runners of a tier take no more calls, stop those without calls, and boot no further runner there."""
    fate = "its runners finish their calls, and other backends take the others"
    pool.actions.append(Warn(f"{call_errors.used_up(tier.usage, now, tier.limits.name)}; {fate}"))
    table = pool.runner_table
    for group in table.groups_on(tier):
        pool.abort_boots(group.booting, len(group.booting), "budget")
        for runner in list(group.runners.values()):
            if runner.state is RunnerState.UP:
                if runner.in_flight:
                    table.leave(runner)
                    note_left(pool, runner)
                else:
                    pool.stop(runner, "budget")


def fail_unpaid(pool: PoolState, now: float) -> None:
    """Fail the waiting calls that could run only on tiers whose budgets are used up."""
    table = pool.runner_table
    for kind, groups in table.groups.items():
        possible = [group.tier for group in groups if group.is_possible]
        if not pool.call_table.queue_of(kind).queued or table.placements.by_kind[kind].members:
            continue
        if all(tier.usage.exhausted for tier in possible):
            used = "; ".join([call_errors.used_up(tier.usage, now, tier.limits.name) for tier in possible])
            pool.fail_waiting(kind, call_errors.over_budget(possible[-1].usage, now, used))
