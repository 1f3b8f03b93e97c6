"""Reconciliation: derives actions from the whole state of a pool.

Each step reads the current state, and never the event that led to it.
"""

from __future__ import annotations

from collections.abc import Iterable

from dragonfly_executor.core import call_errors
from dragonfly_executor.core.actions import Closed, Settle, Warn
from dragonfly_executor.core.assign import assign
from dragonfly_executor.core.idle_limits import stop_idle_runners
from dragonfly_executor.core.losses import end_pauses, give_up_booting
from dragonfly_executor.core.overflow import note_long_calls
from dragonfly_executor.core.queued_boots import abort_needless
from dragonfly_executor.core.runner_endings import end_due
from dragonfly_executor.core.runner_group import RunnerGroup
from dragonfly_executor.core.scaling import boots_for
from dragonfly_executor.core.sharing import fit_yields, grow
from dragonfly_executor.core.shutdown_mode import ShutdownMode
from dragonfly_executor.core.spares import keep_spares
from dragonfly_executor.core.state import PoolState
from dragonfly_executor.core.stuck_calls import warn_of_stuck_calls
from dragonfly_executor.core.tier_budgets import fail_unpaid, spend_tiers


def reconcile(pool: PoolState, now: float, *, in_turn: bool) -> None:
    """Reconcile the whole state, and append the resulting actions.

    The steps are, in order: caps and timeouts that ended, retries that are due, bounds, calls for runners, boots,
    stops.

    Args:
        pool: the state.
        now: monotonic seconds.
        in_turn: settle calls that time or an earlier event ended, at most `PoolLimits.at_once` of them.
    """
    calls, runners = pool.call_table, pool.runner_table
    total, several_groups = calls.total, len(runners.all_groups) > 1
    apply_ends(pool, now)
    # While unsettled calls have expired, no call is sent and no boot begins: it might serve one of these calls.
    is_late = (calls.may_be_due(now) and expire(pool, now)) if in_turn else calls.is_late(now)
    if runners.retiring or runners.up + len(runners.booting) > pool.max:
        fit(pool)
    if several_groups and fit_yields(pool, now):
        # Runners that yield do not retire as well. Those that need not yield any more may be beyond `max`.
        fit(pool)
    if give_up_hopeless(pool, now):
        is_late = is_late and calls.is_late(now)
    if pool.is_tiered and not is_late:
        note_long_calls(pool, now)
    if total.queued and not is_late:
        assign(pool, now)
        if pool.mode is ShutdownMode.CANCEL_QUEUED:
            cancel_unbooted(pool)
    if pool.settle_queue.entries and in_turn:
        pool.settle_queue.work(pool.limits.at_once)
    tell_settled(pool)
    if not is_late and (several_groups or may_grow(pool)) and grow(pool, now):
        fit(pool)
        assign(pool, now)
    if pool.limits.spare:
        keep_spares(pool, now, is_late=is_late)
    if runners.idle or runners.retired or pool.mode is not None:
        shrink(pool, now, is_late=is_late)
        tell_settled(pool)
    if runners.queued:
        abort_needless(pool, now)
    if runners.lent and total.queued and not is_late and not pool.has_told_of_stuck_calls:
        warn_of_stuck_calls(pool)
    pool.is_behind = is_late or len(pool.settle_queue.entries) > 0 or (total.delayed > 0 and calls.is_due(now))
    if pool.actions:
        calls.sweep()


def apply_ends(pool: PoolState, now: float) -> None:
    """Apply a cap that is reached, and the ends of runners that have come."""
    if pool.usage.is_capped and pool.usage.check(now):
        spend_no_more(pool, now)
    if pool.is_tiered:
        spend_tiers(pool, now)
    if pool.runner_table.endings:
        end_due(pool, now)


def may_grow(pool: PoolState) -> bool:
    """Return whether `grow` may have something to do in a pool with one kind of runners. This takes less time."""
    runners = pool.runner_table
    # The pool never keeps more runners than `min` that no call needs.
    return (
        pool.call_table.total.queued > 0
        or runners.load > runners.slots
        or runners.up + len(runners.booting) < pool.min
        or runners.default.back_off.until is not None
        or runners.ending > 0
    )


def tell_settled(pool: PoolState) -> None:
    """Have the calls settled that have ended."""
    calls = pool.call_table
    if calls.settled:
        pool.actions.append(Settle(calls.settled))
        calls.settled = []


def give_up_hopeless(pool: PoolState, now: float) -> bool:
    """Fail the waiting calls for which no boot can ever begin, or end the pauses that keep boots from beginning.

    Returns:
        True if there may have been such calls.
    """
    if not pool.call_table.queued or not (pool.is_tiered or pool.runner_table.default.tier.boots.all_hang):
        return False
    if pool.is_tiered:
        end_pauses(pool, now)
        fail_unpaid(pool, now)
    if pool.starts_calls:
        give_up_hung(pool, now)
    return True


def give_up_hung(pool: PoolState, now: float) -> None:
    """Fail the calls that wait for boots: each boot was given up, and the backend still blocks in all of them."""
    for kind, groups in pool.runner_table.groups.items():
        if not pool.call_table.queue_of(kind).queued or pool.has_member(groups[0]):
            continue
        hanging = [group.tier.boots for group in groups if group.tier.boots.all_hang]
        if hanging and not any(group.back_off.holds(now) or group.booting or pool.may_boot(group) for group in groups):
            hung = sum([len(boots.hung) for boots in hanging])
            give_up_booting(pool, kind, call_errors.all_boots_hang(hung, pool.last_boot_error))


def cancel_unbooted(pool: PoolState) -> None:
    """Cancel the calls that boots were to take, if these boots are gone, during a shutdown."""
    for kind, groups in pool.runner_table.groups.items():
        if pool.call_table.queue_of(kind).queued and not any(group.booting for group in groups):
            pool.cancel_waiting(kind)


def expire(pool: PoolState, now: float) -> bool:
    """Settle calls whose timeout has expired, and queue retries that are due.

    Returns:
        True if expired calls are left.
    """
    call_table, at_once = pool.call_table, pool.limits.at_once
    for call in call_table.expired(now, at_once):
        pool.counters.calls_timed_out += 1
        pool.end(call, call_errors.timed_out(call, now))
    call_table.release(now, at_once)
    return call_table.is_late(now)


def spend_no_more(pool: PoolState, now: float) -> None:
    """Apply a reached cap: running calls continue to their end, and no other call or runner begins or is kept."""
    call_table, runner_table = pool.call_table, pool.runner_table
    if not pool.has_told_of_budget or call_table.queued or call_table.delayed:
        used = call_errors.used_up(pool.usage, now)
        if not pool.has_told_of_budget:
            # If no code waits for the calls, they end without a message.
            pool.has_told_of_budget = True
            fate = "calls that run go on, and no others begin"
            pool.actions.append(Warn(f"{used}; {fate}; make a new pool with a larger budget="))
        error_of = call_errors.over_budget(pool.usage, now, used)
        for kind in runner_table.groups:
            pool.fail_waiting(kind, error_of)
    pool.abort_boots(runner_table.booting, len(runner_table.booting), "budget")
    for group in runner_table.all_groups:
        pool.stop_unused(group, "budget")


def fit(pool: PoolState) -> None:
    """Fit the pool to `max` after a resize: abort boots beyond `max`, and retire the runners that are still beyond it.

    This step comes before calls are assigned. If the pool may be larger again, or has lost runners, then retiring
    runners are available again for the calls that wait. And no call waits for a boot that is aborted.
    """
    if pool.is_tiered:
        for tier in reversed(pool.runner_table.tiers):
            for group in pool.runner_table.groups_on(tier):
                pool.abort_boots(group.booting, pool.excess, "resized")
    else:
        pool.abort_boots(pool.runner_table.booting, pool.excess, "resized")
    pool.runner_table.retire(max(0, pool.excess))


def shrink(pool: PoolState, now: float, *, is_late: bool) -> None:
    """Stop the runners that are not needed, and complete a shutdown that has nothing left to wait for."""
    runners = pool.runner_table
    up = runners.up
    if pool.mode is not None:
        drain(pool)
    if runners.retired:
        for runner in list(runners.retired.values()):
            pool.stop(runner, "resized" if runner.id in runners.retiring else "room for another kind")
    stop_idle_runners(pool, now)
    if pool.mode is not None and not pool.closed and not runners.runners and not pool.call_table.calls:
        pool.closed = True
        pool.actions.append(Closed())
    if runners.up < up:
        # With fewer runners up, a runner need not retire any more, and max_workers may no longer keep slots free.
        fit(pool)
        # The last runner may have gone that could take calls for which no boot can begin.
        give_up_hopeless(pool, now)
        if pool.call_table.queued and not is_late:
            assign(pool, now)


def drain(pool: PoolState) -> None:
    """Stop the runners and abort the boots that no call can need any more during a shutdown."""
    demands = {kind: demand(pool, kind, groups) for kind, groups in pool.runner_table.groups.items()}
    demanding = [kind for kind, each in demands.items() if any(each)]
    for kind, groups in pool.runner_table.groups.items():
        count, waits_there = demands[kind]
        for group in groups:
            if not count and not waits_there:
                pool.stop_unused(group, "shutdown", demanding)
            hint = pool.slots_hint(group)
            pool.abort_boots(group.booting, len(group.booting) - boots_for(count, hint), "shutdown")
            # The boots of later tiers are for the calls that are left.
            count -= min(count, len(group.booting) * hint)


def demand(pool: PoolState, kind: str, groups: Iterable[RunnerGroup]) -> tuple[int, bool]:
    """Return how many calls of a kind may need another slot, and whether calls wait on its runners for a slot.

    A call that waits on a runner for a slot may come back, and then needs a slot of another runner.
    """
    queue = pool.call_table.queue_of(kind)
    if pool.mode is ShutdownMode.CANCEL_QUEUED:
        return queue.queued, False
    if pool.mode is ShutdownMode.DRAIN:
        return pool.waiting_calls(kind) + queue.delayed, any(group.load > group.busy for group in groups)
    return 0, False
