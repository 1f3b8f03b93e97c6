"""What must hold of a machine between any two events."""

from __future__ import annotations

from math import ceil, fsum

from dragonfly_executor.core.call_table import Call, CallState
from dragonfly_executor.core.events import ShutdownMode
from dragonfly_executor.core.machine import Machine
from dragonfly_executor.core.runners import Runner, RunnerState
from dragonfly_executor.core.state import PoolState


def validate(machine: Machine, now: float) -> None:
    """Check all that can be seen in a state. `now`: the time of the last event."""
    pool = machine.pool
    check_sums(pool)
    check_what_is_told(pool)
    check_meter(pool)
    check_places(pool)
    check_boots(pool)
    check_bounds(pool)
    check_nobody_waits_for_nothing(pool, now)
    check_min(pool, now)
    check_deadline(machine, now)


def in_state(pool: PoolState, state: RunnerState) -> list[Runner]:
    return [runner for runner in pool.runner_table.runners.values() if runner.state is state]


def check_sums(pool: PoolState) -> None:
    runner_table = pool.runner_table
    up = in_state(pool, RunnerState.UP)
    assert runner_table.up == len(up)
    assert list(runner_table.booting.values()) == in_state(pool, RunnerState.BOOTING)
    assert runner_table.slots == sum(runner.slots for runner in up)
    assert runner_table.in_flight == sum(len(runner.in_flight) for runner in up)
    assert runner_table.busy == sum(min(len(runner.in_flight), runner.slots) for runner in up)
    assert {**runner_table.idle, **runner_table.idle_check_pending} == {
        runner.id: runner for runner in up if not runner.in_flight
    }
    assert not runner_table.idle.keys() & runner_table.idle_check_pending.keys()
    since = [runner.idle_since for runner in runner_table.idle.values()]
    assert since == sorted(since), "the runner that is idle for the longest time is not first"
    assert runner_table.retiring == {runner.id: runner for runner in up if runner.retiring}
    assert not runner_table.retired, "a runner that is to retire has no call, and was not told to go"
    started = [call for call in pool.call_table.calls.values() if call.state is CallState.STARTED]
    assert pool.call_table.started == len(started)


def check_what_is_told(pool: PoolState) -> None:
    """What is copied for `stats` is what a walk over all runners finds."""
    walked = {
        runner.id: (runner.id, runner.state, runner.slots, len(runner.in_flight), runner.done)
        for runner in pool.runner_table.runners.values()
    }
    assert list(pool.runner_table.rows.items()) == list(walked.items())


def check_meter(pool: PoolState) -> None:
    """The usage's sums are what a walk over its runners finds, to the last bit."""
    usage = pool.usage
    assert usage._runners.keys() <= pool.runner_table.runners.keys()
    prices = [price for _, price in usage._runners.values()]
    assert usage._rate == fsum(price for price in prices if price is not None)
    assert usage._unpriced >= prices.count(None)
    assert usage.is_capped or usage.until is None


def check_places(pool: PoolState) -> None:
    """Invariant 2: every unsettled call is in exactly one place."""
    call_table, queue = pool.call_table, pool.call_table.queue
    queued = [call for call in queue._fresh if call.state is CallState.QUEUED]
    queued += [call for _, call in queue._again if call.state is CallState.QUEUED]
    delayed = [call_id for _, call_id in queue.delays if call_id in call_table.calls]
    flying = [
        call.id
        for runner in pool.runner_table.runners.values()
        for call in runner.in_flight.values()
        if call.state is not CallState.SETTLED
    ]
    given_up = [call.id for call in call_table.calls.values() if is_given_up(pool, call)]
    places = sorted([*(call.id for call in queued), *delayed, *flying, *given_up])
    assert places == sorted(call_table.calls), "a call is in no place, or in two"
    assert not given_up or pool.backlog.entries, "a call was given up, and nothing settles it"
    assert (call_table.queued, call_table.delayed) == (len(queued), len(delayed))
    assert call_table.waiting == sum(call.state <= CallState.DELAYED for call in call_table.calls.values())
    for call_id, call in call_table.calls.items():
        assert call.id == call_id
        if call.state <= CallState.DELAYED:
            assert call.runner is None
        elif call_id not in given_up:
            assert call.runner is not None
            assert pool.runner_table.runners[call.runner].in_flight[call_id] is call
    assert len(queue._fresh) + len(queue._again) <= 2 * call_table.queued + 64
    assert len(queue.delays) <= 2 * call_table.delayed + 64
    assert call_table.alarms.count <= 2 * len(call_table.calls) + 64
    assert call_table.settled == []


def is_given_up(pool: PoolState, call: Call) -> bool:
    """Whether the end of an unsettled call is decided already."""
    if call.state <= CallState.DELAYED:
        return call.queue is not pool.call_table.queue
    runner = pool.runner_table.runners.get(call.runner or 0)
    return runner is None or call.id not in runner.in_flight


def check_boots(pool: PoolState) -> None:
    """Each boot has a place, and no place is taken by a runner that is up or gone."""
    boots = pool.boots
    assert boots._taken >= pool.runner_table.booting.keys()
    assert boots._taken <= {
        runner.id for runner in pool.runner_table.runners.values() if runner.state is not RunnerState.UP
    }
    assert not boots.hung & pool.runner_table.runners.keys()
    assert 0 <= boots.free == boots.at_most - len(boots._taken) - len(boots.hung)


def check_bounds(pool: PoolState) -> None:
    """Invariant 1, as far as a state shows it: what is beyond max after a resize is on its way out."""
    runner_table = pool.runner_table
    excess = runner_table.up + len(runner_table.booting) - pool.max
    assert excess <= 0 or (excess == len(runner_table.retiring) and not runner_table.booting)
    assert all(runner.in_flight for runner in runner_table.retiring.values())
    for runner in runner_table.runners.values():
        if runner.state is RunnerState.LEAVING:
            assert runner.in_flight, "a runner that leaves is done, and was not told to go"
        elif runner.state is not RunnerState.UP:
            assert not runner.in_flight
        if pool.limits.single_use:
            assert runner.slots <= 1
            assert runner.prefetch == 0


def check_nobody_waits_for_nothing(pool: PoolState, now: float) -> None:
    """Invariant 3."""
    runner_table, call_table, workers = pool.runner_table, pool.call_table, pool.limits.max_workers
    if not pool.starts_calls:
        # Calls whose slots are booting count as begun.
        waits_for_boots = pool.mode is ShutdownMode.CANCEL_QUEUED and (runner_table.booting or call_table.is_late(now))
        assert not call_table.queued or waits_for_boots
        assert not call_table.delayed
        return
    binds = workers is not None and runner_table.slots > workers
    if call_table.is_late(now):
        return  # its time may be over
    if call_table.queued and not (binds and runner_table.in_flight >= (workers or 0)):
        for runner in in_state(pool, RunnerState.UP):
            assert runner.retiring or len(runner.in_flight) >= runner.slots, f"calls wait, and {runner} has room"
    if pool.usage.exhausted:
        assert not call_table.queued, "a budget is used up, and calls wait"
        assert not call_table.delayed
        return
    waiting = call_table.queued + max(0, runner_table.in_flight - runner_table.slots)
    assert (
        waiting <= len(runner_table.booting) * pool.slots_hint
        or len(runner_table.runners) >= pool.max
        or (pool.back_off.until is not None and pool.back_off.until > now)
        or pool.last_boots
        or (pool.boots.free <= 0 and (runner_table.up or not pool.boots.all_hang))
        or (workers is not None and runner_table.slots + len(runner_table.booting) * pool.slots_hint >= workers)
    ), f"{waiting} calls wait for nothing"


def check_min(pool: PoolState, now: float) -> None:
    """Invariant 6."""
    runner_table = pool.runner_table
    assert 0 <= pool.idled_below_min <= pool.min <= pool.max
    if pool.usage.exhausted:
        assert not runner_table.booting, "a budget is used up, and runners boot"
        assert not runner_table.idle, "a budget is used up, and an idle runner is kept"
        assert not runner_table.idle_check_pending
        return
    if pool.limits.min_idle_after is None:
        assert pool.idled_below_min == 0
    if pool.call_table.is_late(now):
        return
    if pool.mode is None and pool.broken is None:
        kept = runner_table.up + len(runner_table.booting) >= pool.min - pool.idled_below_min
        paused = pool.back_off.until is not None and pool.back_off.until > now
        bound = len(runner_table.runners) >= pool.max or pool.boots.free <= 0
        assert kept or paused or pool.last_boots or bound, "less than min are kept"


def check_deadline(machine: Machine, now: float) -> None:
    """What is due has been done, and what will be due has been asked for."""
    deadline, pool = machine.deadline(), machine.pool
    call_table = pool.call_table
    due = [call_id for due, call_id in call_table.queue.delays if call_id in call_table.calls and due <= now]
    if pool.backlog.entries or call_table.is_late(now) or due:
        assert pool.is_behind
        assert deadline == now, "something is left to be done, and the machine does not ask for it"
        return
    assert deadline is None or deadline > now
    ends = [call.deadline for call in machine.unsettled() if call.deadline is not None]
    assert all(end > now for end in ends)
    if ends:
        assert deadline is not None
        assert deadline <= min(ends)


def boots_are_needed(pool: PoolState) -> bool:
    """After an event with boots: whether the last of those under way is needed, by waiting calls or by min."""
    others = len(pool.runner_table.booting) - 1
    waiting = pool.call_table.queued + max(0, pool.runner_table.in_flight - pool.runner_table.slots)
    return others < ceil(waiting / pool.slots_hint) or pool.runner_table.up + others < pool.min
