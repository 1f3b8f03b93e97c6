"""Transitions, which apply events to the state. All decisions are in `reconcile`.

A message about an unknown runner or call is counted as stale and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from dragonfly_executor.core import call_errors, events
from dragonfly_executor.core.actions import CANCELLED, Stop
from dragonfly_executor.core.calls import Call, CallState
from dragonfly_executor.core.departures import find_runner, gone_from, note_departures, take_off
from dragonfly_executor.core.idle_limits import idle_until, stop_idle
from dragonfly_executor.core.losses import lose
from dragonfly_executor.core.reassigned_boots import reassign
from dragonfly_executor.core.runner_endings import note_end, note_left
from dragonfly_executor.core.runners import RunnerState
from dragonfly_executor.core.shutdown_mode import ShutdownMode
from dragonfly_executor.core.state import PoolState
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Final, TypeVar

    E = TypeVar("E", bound=events.Event)

TRANSITIONS: Final[dict[type[events.Event], Callable[[PoolState, Any, float], None]]] = {}
"""The transition of each event: a function of the state, the event and the time. Complete once the module is loaded."""


def transition(event: type[E]) -> Callable[[Callable[[PoolState, E, float], None]], Callable[..., None]]:
    """Return a decorator that registers a function as the transition of this event."""

    def register(apply: Callable[[PoolState, E, float], None]) -> Callable[..., None]:
        """Register the function, and return it."""
        TRANSITIONS[event] = apply
        return apply

    return register


# -- calls -------------------------------------------------------------------------------------------------------------


@transition(events.Submitted)
def _submitted(pool: PoolState, event: events.Submitted, now: float) -> None:
    # The driver refuses calls after a shutdown. A call that slipped in between must not wait for ever.
    _accept(pool, event.calls, now, is_open=pool.broken is None and pool.mode is None)


def _accept(pool: PoolState, calls: Sequence[Call], now: float, *, is_open: bool) -> None:
    """Queue new calls. `is_open`: whether the pool takes them; otherwise they fail."""
    kinds, groups = pool.call_table.accept(calls, now), pool.runner_table.groups
    for kind, requirements in kinds.items():
        if kind not in groups:
            pool.add_kind(kind, requirements)
    if not is_open:
        pool.fail(calls, pool.broken or RuntimeError("cannot schedule new futures after shutdown"))
    elif calls:
        _demand(pool, kinds)


@transition(events.ChildrenSubmitted)
def _children_submitted(pool: PoolState, event: events.ChildrenSubmitted, now: float) -> None:
    _accept(pool, event.calls, now, is_open=pool.starts_calls)


def _demand(pool: PoolState, kinds: Iterable[str]) -> None:
    """Note that calls of these kinds have come: boots need not wait for what was before."""
    pool.idled_below_min = 0
    for kind in kinds:
        for group in pool.runner_table.groups[kind]:
            if group.back_off.until is not None:
                group.back_off.demanded()


@transition(events.ArgumentsReady)
def _arguments_ready(pool: PoolState, event: events.ArgumentsReady, now: float) -> None:
    call = pool.call_table.calls.get(event.call_id)
    if call is not None and pool.call_table.arguments_came(call, now):
        _demand(pool, (call.kind,))


@transition(events.ArgumentsFailed)
def _arguments_failed(pool: PoolState, event: events.ArgumentsFailed, _now: float) -> None:
    call = pool.call_table.calls.get(event.call_id)
    if call is None or call.id not in call.queue.dependent:
        return
    if event.outcome is CANCELLED:
        pool.counters.calls_cancelled += 1
    else:
        pool.counters.calls_failed += 1
    pool.call_table.settle(call, event.outcome)


@transition(events.CancelRequested)
def _cancel_requested(pool: PoolState, event: events.CancelRequested, _now: float) -> None:
    for call_id in event.call_ids:
        call = pool.call_table.calls.get(call_id)
        if call is not None:
            pool.cancel((call,))


@transition(events.CallsStarted)
def _calls_started(pool: PoolState, event: events.CallsStarted, now: float) -> None:
    runner = find_runner(pool, event.runner_id)
    if runner is None:
        return
    costs = pool.runner_table.groups[runner.kind][runner.tier].costs
    slots = event.slots
    for place, (call_id, attempt) in enumerate(event.refs):
        call = runner.in_flight.get(call_id)
        if call is None or call.attempt != attempt:
            pool.counters.stale += 1
        else:
            pool.call_table.start(call, now, slots[place] if slots else None)
            if costs is not None:
                costs.began(now)


@transition(events.CallsWait)
def _calls_wait(pool: PoolState, event: events.CallsWait, _now: float) -> None:
    runner = find_runner(pool, event.runner_id)
    # A runner of single use takes no second call. One that is not up takes none at all.
    if runner is None or runner.state is not RunnerState.UP or pool.limits.single_use:
        return
    for call_id, attempt, waits in event.waits:
        call = runner.in_flight.get(call_id)
        if call is None or call.attempt != attempt:
            pool.counters.stale += 1
        elif waits:
            pool.runner_table.lend(runner, call)
        else:
            pool.runner_table.go_on(runner, call)


@transition(events.ResultsArrived)
def _results_arrived(pool: PoolState, event: events.ResultsArrived, now: float) -> None:
    runner = find_runner(pool, event.runner_id)
    if runner is None:
        return
    in_flight, call_table, over, began = runner.in_flight, pool.call_table, CallState.SETTLED, CallState.STARTED
    calls, settled, costs = (
        call_table.calls,
        call_table.settled,
        pool.runner_table.groups[runner.kind][runner.tier].costs,
    )
    before, settled_before, seconds, ended = len(in_flight), len(settled), 0.0, 0
    run_for, waited_for = pool.call_times.runs.append, pool.call_times.waits.append
    for call_id, attempt, cost, outcome, retryable in event.results:
        call = in_flight.get(call_id)
        if call is None or call.attempt != attempt:
            pool.counters.stale += 1
            continue
        del in_flight[call_id]
        if costs is not None:
            costs.ended(call, cost)
        if call.kind:
            pool.runner_table.placements.by_kind[call.kind].give_back(runner)
        seconds += cost
        state = call.state
        if state is over:
            continue
        if retryable and pool.may_retry(call, now):
            pool.retry(call, now)
            continue
        # This inlines CallTable.settle for a call that is in no queue, because this is the hot loop.
        if state is began:
            ended += 1
        call.state = over
        del calls[call_id]
        settled.append((call, outcome))
        run_for(cost)
        waited_for(now - call.waits_since - cost)
    call_table.started -= ended
    pool.counters.calls_done += len(settled) - settled_before
    if before > len(in_flight):
        pool.runner_table.ran(runner, seconds, before - len(in_flight))
        note_departures(pool, runner, before, now)


@transition(events.CallsReturned)
def _calls_returned(pool: PoolState, event: events.CallsReturned, now: float) -> None:
    runner = find_runner(pool, event.runner_id)
    if runner is None:
        return
    before = len(runner.in_flight)
    for call_id, attempt in event.refs:
        call = take_off(pool, runner, call_id, attempt)
        if call is not None:
            pool.never_started(call, now)
    if before > len(runner.in_flight):
        pool.runner_table.stuck(runner)
        note_departures(pool, runner, before, now)


@transition(events.CallLost)
def _call_lost(pool: PoolState, event: events.CallLost, now: float) -> None:
    call = gone_from(pool, event.runner_id, event.call_id, event.attempt, now)
    if call is not None:
        if event.may_have_started:
            pool.attempt_lost(call, event.error, now)
        else:
            pool.slot_died_before_start(call, event.error, now)


@transition(events.CallTimedOut)
def _call_timed_out(pool: PoolState, event: events.CallTimedOut, now: float) -> None:
    call = gone_from(pool, event.runner_id, event.call_id, event.attempt, now)
    if call is not None:
        if pool.may_retry_timeout(call, now):
            pool.retry(call, now)
            return
        pool.counters.calls_timed_out += 1
        if event.unopened:
            pool.call_table.settle(call, call_errors.not_opened(call, event.unopened))
        else:
            pool.call_table.settle(call, call_errors.ran_too_long(call, now))


@transition(events.CallGone)
def _call_gone(pool: PoolState, event: events.CallGone, now: float) -> None:
    call = gone_from(pool, event.runner_id, event.call_id, event.attempt, now)
    if call is not None:
        # The call left its slot, although the parent had not given it up.
        pool.attempt_lost(call, call_errors.vanished(event.runner_id), now)


# -- runners -----------------------------------------------------------------------------------------------------------


@transition(events.BootStarted)
def _boot_started(pool: PoolState, event: events.BootStarted, now: float) -> None:
    runner = find_runner(pool, event.runner_id)
    if runner is not None:
        pool.runner_table.unqueue(runner)
        pool.began(runner, now)
        pool.runner_table.boot_began(runner, now)


@transition(events.BootQueued)
def _boot_queued(pool: PoolState, event: events.BootQueued, now: float) -> None:
    runner = find_runner(pool, event.runner_id)
    # A runner that is up has a node, even if the event says otherwise.
    if runner is not None and runner.state is RunnerState.BOOTING:
        pool.runner_table.queue(runner)
        for usage in pool.usages_of(runner):
            usage.withdrawn(runner.id, now)
        pool.runner_table.boot_queued(runner)


@transition(events.BootReturned)
def _boot_returned(pool: PoolState, event: events.BootReturned, _now: float) -> None:
    if not any(tier.boots.returned(event.runner_id) for tier in pool.runner_table.tiers):
        pool.counters.stale += 1


@transition(events.BootSucceeded)
def _boot_succeeded(pool: PoolState, event: events.BootSucceeded, now: float) -> None:
    runner = find_runner(pool, event.runner_id)
    if runner is None:
        return
    pool.runner_table.tiers[runner.tier].boots.leave(runner.id)
    pool.began(runner, now)
    if event.price is not None:
        for usage in pool.usages_of(runner):
            usage.priced(runner.id, event.price, now)
    # A runner that was stopped while it booted stays stopped.
    if runner.state is RunnerState.BOOTING:
        pool.runner_table.came_up(runner, event.slots, event.capacity, now)
        group = pool.runner_table.groups[runner.kind][runner.tier]
        group.back_off.succeeded()
        group.passed_over = False
        if runner.ends_at is not None:
            note_end(pool, runner, runner.ends_at, runner.ended_by, now)


@transition(events.BootFailed)
def _boot_failed(pool: PoolState, event: events.BootFailed, now: float) -> None:
    runner = find_runner(pool, event.runner_id)
    if runner is not None:
        # Release the place first: the steps that follow may need it.
        pool.runner_table.tiers[runner.tier].boots.leave(runner.id, hangs=event.hangs)
        lose(pool, runner, event.error, now, next_boot=now + event.retry_in, counts=not event.is_shared)
        pool.forget(runner, now)


@transition(events.BootReassigned)
def _boot_reassigned(pool: PoolState, event: events.BootReassigned, now: float) -> None:
    reassign(pool, event.runner_id, event.kind, event.error, now=now, next_boot=now + event.retry_in)


@transition(events.RunnerLost)
def _runner_lost(pool: PoolState, event: events.RunnerLost, now: float) -> None:
    runner = find_runner(pool, event.runner_id)
    if runner is not None and runner.state is not RunnerState.STOPPING:
        lose(pool, runner, event.error, now, never_left=event.never_left, begun=event.begun)
        pool.actions.append(Stop(runner.id, 0.0, "lost"))


@transition(events.RunnerLeaving)
def _runner_leaving(pool: PoolState, event: events.RunnerLeaving, _now: float) -> None:
    runner = find_runner(pool, event.runner_id)
    if runner is None:
        return
    if runner.state is RunnerState.UP and runner.in_flight:
        pool.runner_table.leave(runner)
        note_left(pool, runner)
    elif runner.state in (RunnerState.UP, RunnerState.BOOTING):
        pool.stop(runner, "leaving")


@transition(events.RunnerEnding)
def _runner_ending(pool: PoolState, event: events.RunnerEnding, now: float) -> None:
    runner = find_runner(pool, event.runner_id)
    if runner is not None:
        note_end(pool, runner, max(now, event.ends_at), event.ended_by, now)


@transition(events.RunnerGone)
def _runner_gone(pool: PoolState, event: events.RunnerGone, now: float) -> None:
    runner = find_runner(pool, event.runner_id)
    if runner is None:
        return
    if runner.state is not RunnerState.STOPPING:
        lose(pool, runner, call_errors.vanished(runner.id), now)
    pool.forget(runner, now, hangs=event.hangs)


@transition(events.RoundTrip)
def _round_trip(pool: PoolState, event: events.RoundTrip, _now: float) -> None:
    runner = find_runner(pool, event.runner_id)
    if runner is not None and runner.state is RunnerState.UP:
        pool.runner_table.answered_in(runner, event.seconds)


@transition(events.IdleChecked)
def _idle_checked(pool: PoolState, event: events.IdleChecked, now: float) -> None:
    runner = find_runner(pool, event.runner_id)
    if runner is None:
        return
    group = pool.runner_table.groups[runner.kind][runner.tier]
    if group.idle_check_pending.pop(runner.id, None) is None:
        pool.counters.stale += 1
        return
    until = idle_until(pool, runner, group)
    if event.idle and until is not None and until <= now:
        stop_idle(pool, runner)
    else:
        pool.runner_table.rest(runner, now)


# -- the pool ----------------------------------------------------------------------------------------------------------


@transition(events.Resized)
def _resized(pool: PoolState, event: events.Resized, _now: float) -> None:
    pool.max = event.max
    pool.min = min(event.min, event.max)
    pool.idled_below_min = 0


@transition(events.ShutdownRequested)
def _shutdown_requested(pool: PoolState, event: events.ShutdownRequested, _now: float) -> None:
    if pool.mode is not None and event.mode <= pool.mode:
        return
    pool.mode = event.mode
    if event.mode is ShutdownMode.CANCEL_QUEUED:
        for kind in pool.runner_table.groups:
            pool.cancel_waiting(kind, pool.slots_coming(kind))
    if event.mode is ShutdownMode.KILL:
        is_running = len(pool.call_table.calls) > pool.call_table.waiting
        for kind in pool.runner_table.groups:
            pool.cancel_waiting(kind)
        if is_running:
            pool.fail_all(call_errors.terminated())
        pool.stop_all("killed")


@transition(events.PoolBroke)
def _pool_broke(pool: PoolState, event: events.PoolBroke, _now: float) -> None:
    if pool.broken is None:
        pool.broken = event.error
        pool.fail_all(event.error)
        pool.stop_all("broken")


@transition(events.Tick)
def _tick(pool: PoolState, event: events.Tick, now: float) -> None:
    """Change nothing: a tick only advances the time."""
