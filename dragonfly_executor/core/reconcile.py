"""Reconciliation: derives actions from the whole state of a pool.

Each step looks at the current state, and never at the event that led to it.
"""

from __future__ import annotations

from dragonfly_executor.core import call_errors
from dragonfly_executor.core.actions import CheckIdle, Closed, Send, Settle, Warn
from dragonfly_executor.core.events import ShutdownMode
from dragonfly_executor.core.scaling import boots_for, boots_needed
from dragonfly_executor.core.state import PoolState


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
    if pool.usage.is_capped and pool.usage.check(now):
        spend_no_more(pool, now)
    # While unsettled calls have expired, no call is sent and no boot begins: it might serve one of these calls.
    is_late = (calls.may_be_due(now) and expire(pool, now)) if in_turn else calls.is_late(now)
    if runners.retiring or runners.up + len(runners.booting) > pool.max:
        fit(pool)
    if calls.queue.queued and not is_late:
        assign(pool)
    if calls.queue.queued:
        give_up(pool, now, is_late=is_late)
    if pool.backlog.entries and in_turn:
        pool.backlog.work(pool.limits.at_once)
    if calls.settled:
        pool.actions.append(Settle(calls.settled))
        calls.settled = []
    # The pool never keeps more than `min` runners. If no call waits either, `grow` has nothing to compute.
    if not is_late and (
        calls.queue.queued
        or runners.in_flight > runners.slots
        or runners.up + len(runners.booting) < pool.min
        or pool.back_off.until is not None
    ):
        grow(pool, now)
    if runners.idle or runners.retired or pool.mode is not None:
        shrink(pool, now, is_late=is_late)
    if is_late or pool.backlog.entries or calls.queue.delayed:
        pool.is_behind = is_late or len(pool.backlog.entries) > 0 or calls.queue.is_due(now)
    else:
        pool.is_behind = False
    if pool.actions:
        calls.sweep()


def give_up(pool: PoolState, now: float, *, is_late: bool) -> None:
    """Settle the calls that wait for boots which can no longer come."""
    if pool.mode is ShutdownMode.CANCEL_QUEUED and not is_late and not pool.runner_table.booting:
        # The boots that were to take these calls are gone.
        pool.cancel_waiting()
    if pool.boots.all_hang and not pool.runner_table.up and pool.starts_calls and not pool.back_off.holds(now):
        # Each boot was given up, and the backend still blocks in all of them: no boot can begin.
        pool.give_up_booting(call_errors.all_boots_hang(len(pool.boots.hung), pool.last_boot_error))


def expire(pool: PoolState, now: float) -> bool:
    """Settle calls whose timeout has expired, and queue retries that are due.

    Returns:
        True if expired calls are left.
    """
    call_table, at_once = pool.call_table, pool.limits.at_once
    for call in call_table.expired(now, at_once):
        pool.counters.calls_timed_out += 1
        pool.end(call, call_errors.timed_out(call, now))
    call_table.queue.release(now, at_once)
    return call_table.is_late(now)


def spend_no_more(pool: PoolState, now: float) -> None:
    """Apply a reached cap: running calls continue to their end, and nothing else begins or is kept."""
    call_table, runner_table = pool.call_table, pool.runner_table
    if not pool.has_told_of_budget or call_table.queued or call_table.delayed:
        used = call_errors.used_up(pool.usage, now)
        if not pool.has_told_of_budget:
            # If no code waits for the calls, they end without a message.
            pool.has_told_of_budget = True
            fate = "calls that run go on, and no others begin"
            pool.actions.append(Warn(f"{used}; {fate}; make a new pool with a larger budget="))
        pool.fail_waiting(call_errors.over_budget(pool.usage, now, used))
    pool.abort_boots(len(runner_table.booting), "budget")
    pool.stop_unused("budget")


def fit(pool: PoolState) -> None:
    """Fit the pool to `max` after a resize: abort boots beyond `max`, and retire the runners that are still beyond it.

    This step comes before calls are assigned. If the pool may be larger again, or has lost runners, then retiring
    runners are available again for the calls that wait. And no call waits for a boot that is aborted.
    """
    pool.abort_boots(pool.excess, "resized")
    pool.runner_table.retire(max(0, pool.excess))


def assign(pool: PoolState) -> None:
    """Assign queued calls to free slots over all runners, and only then to prefetch credit."""
    call_table, runner_table = pool.call_table, pool.runner_table
    room = call_table.queued
    workers = pool.limits.max_workers
    capped = workers is not None and runner_table.slots > workers
    if capped:
        room = min(room, (workers or 0) - runner_table.in_flight)
    sends: dict[int, Send] = {}
    ahead = False
    while room > 0:
        picked = runner_table.pick(ahead)
        if picked is None:
            if ahead or capped:
                break
            ahead = True
            continue
        runner, count = picked
        calls = call_table.take(min(room, count))
        runner_table.place(runner, calls)
        room -= len(calls)
        send = sends.get(runner.id)
        if send is None:
            sends[runner.id] = send = Send(runner.id, calls)
            pool.actions.append(send)
        else:
            send.calls += calls


def grow(pool: PoolState, now: float) -> None:
    """Boot the runners that the waiting calls need, and those that are missing from `min`."""
    runner_table = pool.runner_table
    paused = pool.back_off.holds(now)
    waiting, booting = pool.call_table.queued + runner_table.ahead, len(runner_table.booting)
    if not waiting and runner_table.up + booting >= pool.keep:
        return
    if paused or not pool.starts_calls or pool.usage.exhausted:
        return
    if pool.last_boots:
        return
    workers = pool.limits.max_workers
    count = boots_needed(
        waiting=waiting,
        up=runner_table.up,
        booting=booting,
        total=len(runner_table.runners),
        at_least=pool.keep,
        at_most=pool.max,
        slots_hint=pool.slots_hint,
        slots_allowed=None if workers is None else workers - runner_table.slots,
    )
    for _ in range(min(count, pool.boots.free)):
        pool.boot()


def shrink(pool: PoolState, now: float, *, is_late: bool) -> None:
    """Stop the runners that are not needed, and complete a shutdown that has nothing left to wait for."""
    runners = pool.runner_table
    up = runners.up
    if pool.mode is not None:
        drain(pool)
    if runners.retired:
        for runner in list(runners.retired.values()):
            pool.stop(runner, "resized")
    stop_idle(pool, now)
    if pool.mode is not None and not pool.closed and not runners.runners and not pool.call_table.calls:
        pool.closed = True
        pool.actions.append(Closed())
    if runners.up < up:
        # With fewer runners up, a runner need not retire any more, and max_workers may no longer keep slots free.
        fit(pool)
        if pool.call_table.queued and not is_late:
            assign(pool)


def stop_idle(pool: PoolState, now: float) -> None:
    """Stop the runners that have reached their idle limit, or ask them first whether they may go."""
    runners = pool.runner_table
    while runners.idle and (until := idle_deadline(pool)) is not None and until <= now:
        runner = next(iter(runners.idle.values()))
        if pool.limits.idle_check:
            runners.ask(runner)
            pool.actions.append(CheckIdle(runner.id))
        else:
            pool.stop_idle(runner)


def drain(pool: PoolState) -> None:
    """Stop the runners and abort the boots that no call can need any more during a shutdown."""
    runner_table, call_table = pool.runner_table, pool.call_table
    demand = 0
    # A call that waits on a runner for a slot may come back, and then needs a slot of another runner.
    waits_there = False
    if pool.mode is ShutdownMode.CANCEL_QUEUED:
        demand = call_table.queued
    if pool.mode is ShutdownMode.DRAIN:
        demand = call_table.queued + call_table.delayed + runner_table.ahead
        waits_there = runner_table.in_flight > runner_table.busy
    if not demand and not waits_there:
        pool.stop_unused("shutdown")
    pool.abort_boots(len(runner_table.booting) - boots_for(demand, pool.slots_hint), "shutdown")


def idle_deadline(pool: PoolState) -> float | None:
    """Return when the next idle runner reaches its idle limit, in monotonic seconds; None = never."""
    # All have the same limit, so the runner that has been idle longest is first.
    for runner in pool.runner_table.idle.values():
        return pool.idle_until(runner)
    return None
