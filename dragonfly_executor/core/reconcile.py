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
    ledger, roster = pool.ledger, pool.roster
    if pool.meter.is_capped and pool.meter.check(now):
        spend_no_more(pool, now)
    # While unsettled calls have expired, no call is sent and no boot begins: it might serve one of these calls.
    is_late = (ledger.may_be_due(now) and expire(pool, now)) if in_turn else ledger.is_late(now)
    if roster.retiring or roster.up + len(roster.booting) > pool.max:
        fit(pool)
    if ledger.queue.queued and not is_late:
        assign(pool)
        if pool.mode is ShutdownMode.CANCEL_QUEUED and ledger.queued and not roster.booting:
            # The boots that were to take these calls are gone.
            pool.cancel_waiting()
    if pool.boots.all_hang and ledger.queued and not roster.up and pool.starts_calls and not pool.back_off.holds(now):
        # Each boot was given up, and the backend still blocks in all of them: no boot can begin.
        pool.give_up_booting(call_errors.all_boots_hang(len(pool.boots.hung), pool.last_boot_error))
    if pool.backlog.entries and in_turn:
        pool.backlog.work(pool.limits.at_once)
    if ledger.settled:
        pool.actions.append(Settle(ledger.settled))
        ledger.settled = []
    # The pool never keeps more than `min` runners. If no call waits either, `grow` has nothing to compute.
    if not is_late and (
        ledger.queue.queued
        or roster.in_flight > roster.slots
        or roster.up + len(roster.booting) < pool.min
        or pool.back_off.until is not None
    ):
        grow(pool, now)
    if roster.idle or roster.retired or pool.mode is not None:
        up = roster.up
        shrink(pool, now)
        if roster.up < up:
            # With fewer runners up, a runner need not retire any more, and max_workers may no longer keep slots free.
            fit(pool)
            if ledger.queued and not is_late:
                assign(pool)
    if is_late or pool.backlog.entries or ledger.queue.delayed:
        pool.is_behind = is_late or len(pool.backlog.entries) > 0 or ledger.queue.is_due(now)
    else:
        pool.is_behind = False
    if pool.actions:
        ledger.sweep()


def expire(pool: PoolState, now: float) -> bool:
    """Settle calls whose timeout has expired, and queue retries that are due.

    Returns:
        True if expired calls are left.
    """
    ledger, at_once = pool.ledger, pool.limits.at_once
    for call in ledger.expired(now, at_once):
        pool.tally.timed_out += 1
        pool.end(call, call_errors.timed_out(call, now))
    ledger.queue.release(now, at_once)
    return ledger.is_late(now)


def spend_no_more(pool: PoolState, now: float) -> None:
    """Apply a reached cap: running calls continue to their end, and nothing else begins or is kept."""
    ledger, roster = pool.ledger, pool.roster
    if not pool.has_told_of_budget or ledger.queued or ledger.delayed:
        used = call_errors.used_up(pool.meter, now)
        if not pool.has_told_of_budget:
            # If no code waits for the calls, they end without a message.
            pool.has_told_of_budget = True
            fate = "calls that run go on, and no others begin"
            pool.actions.append(Warn(f"{used}; {fate}; make a new pool with a larger budget="))
        pool.fail_waiting(call_errors.over_budget(pool.meter, now, used))
    pool.abort_boots(len(roster.booting), "budget")
    pool.stop_unused("budget")


def fit(pool: PoolState) -> None:
    """Fit the pool to `max` after a resize: abort boots beyond `max`, and retire the runners that are still beyond it.

    This step comes before calls are assigned. If the pool may be larger again, or has lost runners, then retiring
    runners are available again for the calls that wait. And no call waits for a boot that is aborted.
    """
    pool.abort_boots(pool.excess, "resized")
    pool.roster.retire(max(0, pool.excess))


def assign(pool: PoolState) -> None:
    """Assign queued calls to free slots over all runners, and only then to prefetch credit."""
    ledger, roster = pool.ledger, pool.roster
    room = ledger.queued
    workers = pool.limits.max_workers
    capped = workers is not None and roster.slots > workers
    if capped:
        room = min(room, (workers or 0) - roster.in_flight)
    sends: dict[int, Send] = {}
    ahead = False
    while room > 0:
        picked = roster.pick(ahead)
        if picked is None:
            if ahead or capped:
                break
            ahead = True
            continue
        runner, count = picked
        calls = ledger.take(min(room, count))
        roster.place(runner, calls)
        room -= len(calls)
        send = sends.get(runner.id)
        if send is None:
            sends[runner.id] = send = Send(runner.id, calls)
            pool.actions.append(send)
        else:
            send.calls += calls


def grow(pool: PoolState, now: float) -> None:
    """Boot the runners that the waiting calls need, and those that are missing from `min`."""
    roster = pool.roster
    paused = pool.back_off.holds(now)
    waiting, booting = pool.ledger.queued + roster.ahead, len(roster.booting)
    if not waiting and roster.up + booting >= pool.keep:
        return
    if paused or not pool.starts_calls or pool.meter.exhausted:
        return
    if pool.last_boots:
        return
    workers = pool.limits.max_workers
    count = boots_needed(
        waiting=waiting,
        up=roster.up,
        booting=booting,
        total=len(roster.runners),
        at_least=pool.keep,
        at_most=pool.max,
        slots_hint=pool.slots_hint,
        slots_allowed=None if workers is None else workers - roster.slots,
    )
    for _ in range(min(count, pool.boots.free)):
        pool.boot()


def shrink(pool: PoolState, now: float) -> None:
    """Stop the runners that are not needed, and complete a shutdown that has nothing left to wait for."""
    roster = pool.roster
    if pool.mode is not None:
        drain(pool)
    if roster.retired:
        for runner in list(roster.retired.values()):
            pool.stop(runner, "resized")
    while roster.idle and (until := idle_deadline(pool)) is not None and until <= now:
        runner = next(iter(roster.idle.values()))
        if pool.limits.idle_check:
            roster.ask(runner)
            pool.actions.append(CheckIdle(runner.id))
        else:
            pool.stop_idle(runner)
    if pool.mode is not None and not pool.closed and not roster.runners and not pool.ledger.calls:
        pool.closed = True
        pool.actions.append(Closed())


def drain(pool: PoolState) -> None:
    """Stop the runners and abort the boots that no call can need any more during a shutdown."""
    roster, ledger = pool.roster, pool.ledger
    demand = 0
    # A call that waits on a runner for a slot may come back, and then needs a slot of another runner.
    waits_there = False
    if pool.mode is ShutdownMode.CANCEL_QUEUED:
        demand = ledger.queued
    if pool.mode is ShutdownMode.DRAIN:
        demand = ledger.queued + ledger.delayed + roster.ahead
        waits_there = roster.in_flight > roster.busy
    if not demand and not waits_there:
        pool.stop_unused("shutdown")
    pool.abort_boots(len(roster.booting) - boots_for(demand, pool.slots_hint), "shutdown")


def idle_deadline(pool: PoolState) -> float | None:
    """Return when the next idle runner reaches its idle limit, in monotonic seconds; None = never."""
    # All have the same limit, so the runner that has been idle longest is first.
    for runner in pool.roster.idle.values():
        return pool.idle_until(runner)
    return None
