"""Lost runners and failed boots: what becomes of their calls, and of the calls that wait for a boot."""

from __future__ import annotations

from collections.abc import Collection

from dragonfly_executor.core import call_errors
from dragonfly_executor.core.actions import Warn
from dragonfly_executor.core.calls import CallState
from dragonfly_executor.core.events import Ref
from dragonfly_executor.core.runner import Runner, RunnerState
from dragonfly_executor.core.runner_group import RunnerGroup
from dragonfly_executor.core.state import PoolState
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

PASSED_OVER: Final = 60.0
"""Minimum seconds for which a tier is passed over whose boots have failed."""


def lose(
    pool: PoolState,
    runner: Runner,
    error: Exception,
    now: float,
    *,
    next_boot: float | None = None,
    counts: bool = True,
    never_left: Collection[Ref] = (),
    begun: Collection[Ref] | None = None,
) -> None:
    """Remove a runner that was lost or whose boot failed, and decide about its calls.

    Args:
        pool: the state.
        runner: the runner.
        error: the error of its calls that may not be tried again.
        now: monotonic seconds.
        next_boot: monotonic seconds at which the next boot may begin, if this runner was booting; default: now.
        counts: whether a failed boot counts as one more in a row.
        never_left: the calls that the runner cannot have received completely.
        begun: the calls that the runner had begun; None if unknown.
    """
    state, calls = runner.state, list(runner.in_flight.values())
    pool.runner_table.stop(runner)
    if state is RunnerState.BOOTING:
        group = pool.runner_table.groups[runner.kind][runner.tier]
        boot_failed(pool, group, error, now, now if next_boot is None else next_boot, counts=counts)
    for call in calls:
        ref = call.id, call.attempt
        if ref not in never_left and (begun is None or ref in begun):
            pool.attempt_lost(call, error, now)
        elif call.state is not CallState.SETTLED:
            pool.never_started(call, now)


def boot_failed(
    pool: PoolState, group: RunnerGroup, error: Exception, now: float, next_boot: float, *, counts: bool = True
) -> None:
    """Count a failed boot. After enough of them in a row, the waiting calls fail, or other tiers boot for them.

    With `counts` False, another boot has counted the same failure.
    """
    pool.counters.boots_failed += 1
    pool.last_boot_error = group.tier.last_error = error
    group.back_off.failed(next_boot, counts=counts)
    if pool.has_member(group) and not pool.is_tiered:
        return
    if call_errors.is_final(error):
        group.back_off.final = error
    # The pending boots may have begun before the cause of this failure arose.
    if pool.has_failed_enough(group) and not group.booting:
        if pool.is_tiered:
            pass_over(pool, group, error, now)
        else:
            give_up_booting(pool, group.kind, group.back_off.final or error)


def pass_over(pool: PoolState, group: RunnerGroup, error: Exception, now: float) -> None:
    """Boot no runners on a tier for a while. The waiting calls fail if no other tier can take them."""
    is_new, group.passed_over = not group.passed_over, True
    groups = pool.runner_table.groups[group.kind]
    if pool.has_member(group) or any(each.booting or pool.may_boot(each) for each in groups):
        group.back_off.until = max(group.back_off.until or now, now + PASSED_OVER)
        if is_new:
            pool.actions.append(Warn(call_errors.tier_passed_over(group.tier.limits.name, error, PASSED_OVER)))
    else:
        give_up_booting(pool, group.kind, group.back_off.final or error)


def end_pauses(pool: PoolState, now: float) -> None:
    """Let tiers that were passed over try one boot again, if their pause is over or nothing else can take the calls."""
    for kind, groups in pool.runner_table.groups.items():
        passed_over = [group for group in groups if group.passed_over]
        if not passed_over:
            continue
        is_stuck = pool.call_table.queue_of(kind).queued and not pool.has_member(groups[0])
        is_stuck = is_stuck and not any(group.booting or pool.may_boot(group) for group in groups)
        for group in passed_over:
            if is_stuck:
                group.back_off.until = None
            if not group.back_off.holds(now):
                group.passed_over = False
                group.back_off.final = None
                group.back_off.failures = pool.limits.max_boot_failures - 1


def give_up_booting(pool: PoolState, kind: str, why: Exception) -> None:
    """Fail the waiting calls of a kind, because no boot can help them. Later calls try again."""
    failures = 0
    for group in pool.runner_table.groups[kind]:
        failures += group.back_off.gave_up()
        group.passed_over = False
    queue = pool.call_table.queue_of(kind)
    if queue.queued or queue.delayed:
        error = call_errors.no_runner(why, failures)
        pool.fail_waiting(kind, lambda _call: error)
