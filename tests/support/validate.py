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
    return [runner for runner in pool.roster.runners.values() if runner.state is state]


def check_sums(pool: PoolState) -> None:
    roster = pool.roster
    up = in_state(pool, RunnerState.UP)
    assert roster.up == len(up)
    assert list(roster.booting.values()) == in_state(pool, RunnerState.BOOTING)
    assert roster.slots == sum(runner.slots for runner in up)
    assert roster.in_flight == sum(len(runner.in_flight) for runner in up)
    assert roster.busy == sum(min(len(runner.in_flight), runner.slots) for runner in up)
    assert {**roster.idle, **roster.idle_check_pending} == {runner.id: runner for runner in up if not runner.in_flight}
    assert not roster.idle.keys() & roster.idle_check_pending.keys()
    since = [runner.idle_since for runner in roster.idle.values()]
    assert since == sorted(since), "the runner that is idle for the longest time is not first"
    assert roster.retiring == {runner.id: runner for runner in up if runner.retiring}
    assert not roster.retired, "a runner that is to retire has no call, and was not told to go"
    started = [call for call in pool.ledger.calls.values() if call.state is CallState.STARTED]
    assert pool.ledger.started == len(started)


def check_what_is_told(pool: PoolState) -> None:
    """What is copied for `stats` is what a walk over all runners finds."""
    walked = {
        runner.id: (runner.id, runner.state, runner.slots, len(runner.in_flight), runner.done)
        for runner in pool.roster.runners.values()
    }
    assert list(pool.roster.rows.items()) == list(walked.items())


def check_meter(pool: PoolState) -> None:
    """The meter's sums are what a walk over its runners finds, to the last bit."""
    meter = pool.meter
    assert meter._runners.keys() <= pool.roster.runners.keys()
    prices = [price for _, price in meter._runners.values()]
    assert meter._rate == fsum(price for price in prices if price is not None)
    assert meter._unpriced >= prices.count(None)
    assert meter.is_capped or meter.until is None


def check_places(pool: PoolState) -> None:
    """Invariant 2: every unsettled call is in exactly one place."""
    ledger, queue = pool.ledger, pool.ledger.queue
    queued = [call for call in queue._fresh if call.state is CallState.QUEUED]
    queued += [call for _, call in queue._again if call.state is CallState.QUEUED]
    delayed = [call_id for _, call_id in queue.delays if call_id in ledger.calls]
    flying = [
        call.id
        for runner in pool.roster.runners.values()
        for call in runner.in_flight.values()
        if call.state is not CallState.SETTLED
    ]
    given_up = [call.id for call in ledger.calls.values() if is_given_up(pool, call)]
    places = sorted([*(call.id for call in queued), *delayed, *flying, *given_up])
    assert places == sorted(ledger.calls), "a call is in no place, or in two"
    assert not given_up or pool.backlog.entries, "a call was given up, and nothing settles it"
    assert (ledger.queued, ledger.delayed) == (len(queued), len(delayed))
    assert ledger.waiting == sum(call.state <= CallState.DELAYED for call in ledger.calls.values())
    for call_id, call in ledger.calls.items():
        assert call.id == call_id
        if call.state <= CallState.DELAYED:
            assert call.runner is None
        elif call_id not in given_up:
            assert call.runner is not None
            assert pool.roster.runners[call.runner].in_flight[call_id] is call
    assert len(queue._fresh) + len(queue._again) <= 2 * ledger.queued + 64
    assert len(queue.delays) <= 2 * ledger.delayed + 64
    assert ledger.alarms.count <= 2 * len(ledger.calls) + 64
    assert ledger.settled == []


def is_given_up(pool: PoolState, call: Call) -> bool:
    """Whether the end of an unsettled call is decided already."""
    if call.state <= CallState.DELAYED:
        return call.queue is not pool.ledger.queue
    runner = pool.roster.runners.get(call.runner or 0)
    return runner is None or call.id not in runner.in_flight


def check_boots(pool: PoolState) -> None:
    """Each boot has a place, and no place is taken by a runner that is up or gone."""
    boots = pool.boots
    assert boots._taken >= pool.roster.booting.keys()
    assert boots._taken <= {runner.id for runner in pool.roster.runners.values() if runner.state is not RunnerState.UP}
    assert not boots.hung & pool.roster.runners.keys()
    assert 0 <= boots.free == boots.at_most - len(boots._taken) - len(boots.hung)


def check_bounds(pool: PoolState) -> None:
    """Invariant 1, as far as a state shows it: what is beyond max after a resize is on its way out."""
    roster = pool.roster
    excess = roster.up + len(roster.booting) - pool.max
    assert excess <= 0 or (excess == len(roster.retiring) and not roster.booting)
    assert all(runner.in_flight for runner in roster.retiring.values())
    for runner in roster.runners.values():
        if runner.state is RunnerState.LEAVING:
            assert runner.in_flight, "a runner that leaves is done, and was not told to go"
        elif runner.state is not RunnerState.UP:
            assert not runner.in_flight
        if pool.limits.single_use:
            assert runner.slots <= 1
            assert runner.prefetch == 0


def check_nobody_waits_for_nothing(pool: PoolState, now: float) -> None:
    """Invariant 3."""
    roster, ledger, workers = pool.roster, pool.ledger, pool.limits.max_workers
    if not pool.starts_calls:
        # Calls whose slots are booting count as begun.
        waits_for_boots = pool.mode is ShutdownMode.CANCEL_QUEUED and (roster.booting or ledger.is_late(now))
        assert not ledger.queued or waits_for_boots
        assert not ledger.delayed
        return
    binds = workers is not None and roster.slots > workers
    if ledger.is_late(now):
        return  # its time may be over
    if ledger.queued and not (binds and roster.in_flight >= (workers or 0)):
        for runner in in_state(pool, RunnerState.UP):
            assert runner.retiring or len(runner.in_flight) >= runner.slots, f"calls wait, and {runner} has room"
    if pool.meter.exhausted:
        assert not ledger.queued, "a budget is used up, and calls wait"
        assert not ledger.delayed
        return
    waiting = ledger.queued + max(0, roster.in_flight - roster.slots)
    assert (
        waiting <= len(roster.booting) * pool.slots_hint
        or len(roster.runners) >= pool.max
        or (pool.back_off.until is not None and pool.back_off.until > now)
        or pool.last_boots
        or (pool.boots.free <= 0 and (roster.up or not pool.boots.all_hang))
        or (workers is not None and roster.slots + len(roster.booting) * pool.slots_hint >= workers)
    ), f"{waiting} calls wait for nothing"


def check_min(pool: PoolState, now: float) -> None:
    """Invariant 6."""
    roster = pool.roster
    assert 0 <= pool.idled_below_min <= pool.min <= pool.max
    if pool.meter.exhausted:
        assert not roster.booting, "a budget is used up, and runners boot"
        assert not roster.idle, "a budget is used up, and an idle runner is kept"
        assert not roster.idle_check_pending
        return
    if pool.limits.min_idle_after is None:
        assert pool.idled_below_min == 0
    if pool.ledger.is_late(now):
        return
    if pool.mode is None and pool.broken is None:
        kept = roster.up + len(roster.booting) >= pool.min - pool.idled_below_min
        paused = pool.back_off.until is not None and pool.back_off.until > now
        bound = len(roster.runners) >= pool.max or pool.boots.free <= 0
        assert kept or paused or pool.last_boots or bound, "less than min are kept"


def check_deadline(machine: Machine, now: float) -> None:
    """What is due has been done, and what will be due has been asked for."""
    deadline, pool = machine.deadline(), machine.pool
    ledger = pool.ledger
    due = [call_id for due, call_id in ledger.queue.delays if call_id in ledger.calls and due <= now]
    if pool.backlog.entries or ledger.is_late(now) or due:
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
    others = len(pool.roster.booting) - 1
    waiting = pool.ledger.queued + max(0, pool.roster.in_flight - pool.roster.slots)
    return others < ceil(waiting / pool.slots_hint) or pool.roster.up + others < pool.min
