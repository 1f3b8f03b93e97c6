"""What must hold of a machine between any two events."""

from __future__ import annotations

from math import ceil, fsum

from dragonfly_executor.core.call_table import Call, CallState
from dragonfly_executor.core.calls import DEFAULT_KIND
from dragonfly_executor.core.events import ShutdownMode
from dragonfly_executor.core.machine import Machine
from dragonfly_executor.core.placement import RANK, CallPlacement
from dragonfly_executor.core.runner_group import RunnerGroup
from dragonfly_executor.core.runners import Runner, RunnerState
from dragonfly_executor.core.sharing import overdue_at
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
    assert runner_table.groups.keys() == runner_table.placements.keys()
    for kind, group in runner_table.groups.items():
        check_group(pool, kind, group)
        check_placement(pool, runner_table.placements[kind], kind)
    for runner in runner_table.runners.values():
        check_shares(pool, runner)
    up = in_state(pool, RunnerState.UP)
    assert runner_table.up == len(up)
    assert list(runner_table.booting.values()) == in_state(pool, RunnerState.BOOTING)
    assert runner_table.slots == sum(runner.slots for runner in up)
    assert runner_table.in_flight == sum(len(runner.in_flight) for runner in up)
    assert runner_table.load == sum(runner.load for runner in up)
    assert runner_table.busy == sum(min(runner.load, runner.slots) for runner in up)
    assert runner_table.idle == sum(len(group.idle) for group in runner_table.groups.values())
    assert {runner.kind for runner in runner_table.runners.values()} <= runner_table.groups.keys()
    retiring = [runner_table.retiring, *(group.yielding for group in runner_table.groups.values())]
    assert sum(map(len, retiring)) == sum(runner.retiring for runner in up)
    assert {i for each in retiring for i in each} == {runner.id for runner in up if runner.retiring}
    assert not runner_table.retired, "a runner that is to retire has no call, and was not told to go"
    started = [call for call in pool.call_table.calls.values() if call.state is CallState.STARTED]
    assert pool.call_table.started == len(started)


def check_group(pool: PoolState, kind: str, group: RunnerGroup) -> None:
    """The sums and orders of one kind are what a walk over all runners finds."""
    runners = [runner for runner in pool.runner_table.runners.values() if runner.kind == kind == group.kind]
    up = [runner for runner in runners if runner.state is RunnerState.UP]
    assert list(group.runners.values()) == runners
    assert group.up == len(up)
    assert list(group.booting.values()) == [runner for runner in runners if runner.state is RunnerState.BOOTING]
    assert group.slots == sum(runner.slots for runner in up)
    assert group.in_flight == sum(len(runner.in_flight) for runner in up)
    assert group.load == sum(runner.load for runner in up)
    assert group.busy == sum(min(runner.load, runner.slots) for runner in up)
    assert {**group.idle, **group.idle_check_pending} == {runner.id: runner for runner in up if not runner.in_flight}
    assert not group.idle.keys() & group.idle_check_pending.keys()
    since = [runner.idle_since for runner in group.idle.values()]
    assert since == sorted(since), "the runner that is idle for the longest time is not first"
    assert group.staying >= 0


def check_placement(pool: PoolState, placement: CallPlacement, kind: str) -> None:
    """The room for calls of a kind is what a walk over all runners finds."""
    table = pool.runner_table
    assert placement.kind == kind
    members = [runner for runner in in_state(pool, RunnerState.UP) if placement.fits(runner)]
    assert {runner.id: runner for runner in members} == placement.members
    assert placement.yielding == sum(runner.id in table.groups[runner.kind].yielding for runner in members)
    if kind != DEFAULT_KIND:
        calls = [call for runner in table.runners.values() for call in runner.in_flight.values()]
        assert placement.in_flight == sum(call.kind == kind for call in calls)
    if placement._packed is not None:
        free = [runner for runner in members if placement.room(runner) > 0]
        free = [runner for runner in free if placement.shares or not (runner.is_short and runner.in_flight)]
        listed = {i: load % RANK for i, load in placement._packed._load_of.items()}
        assert listed == {runner.id: runner.load for runner in free}


def check_shares(pool: PoolState, runner: Runner) -> None:
    """What the calls of a runner require fits in it together, and is what a walk over them finds."""
    placements, capacity = pool.runner_table.placements, runner.capacity
    extra = gpus = memory = 0
    for call in runner.in_flight.values():
        placement = placements[call.kind]
        assert placement.fits(runner), "a call is on a runner on which it does not fit"
        if placement.requirements is not None and placement.shares:
            extra += placement.requirements.slots_of(runner.slots, capacity) - 1
            gpus += placement.requirements.gpus
            memory += placement.requirements.memory
    assert (runner.extra, runner.gpus_used, runner.memory_used) == (extra, gpus, memory)
    assert not extra or runner.load <= runner.slots, "calls take more than the slots of their runner"
    assert capacity is None or (gpus <= capacity.gpus and memory <= capacity.memory)
    is_held = runner is pool.runner_table.held
    assert (runner.state is RunnerState.UP and runner.held_for is not None) == is_held
    assert not is_held or placements[runner.held_for or ""].members.get(runner.id) is runner


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
    call_table, queues = pool.call_table, pool.call_table.queues
    queued: list[Call] = []
    delayed: list[int] = []
    for kind, queue in queues.items():
        calls = [call for call in queue._fresh if call.state is CallState.QUEUED]
        calls += [entry[2] for entry in (*queue._early, *queue._late) if entry[2].state is CallState.QUEUED]
        assert all(call.limits.priority == 0 for call in queue._fresh)
        assert [call.id for call in queue._fresh] == sorted(call.id for call in queue._fresh)
        assert all(priority <= 0 for priority, _, _ in queue._early)
        assert all(priority > 0 for priority, _, _ in queue._late)
        assert queue.has_keys or not any(call.limits.key for call in calls)
        waits = [call_id for _, call_id in queue.delays if call_id in call_table.calls]
        assert {call.kind for call in [*calls, *(call_table.calls[i] for i in waits)]} <= {kind}
        assert (queue.queued, queue.delayed) == (len(calls), len(waits))
        assert queue.total is call_table.total
        assert len(queue._fresh) + len(queue._early) + len(queue._late) <= 2 * queue.queued + 64
        assert len(queue.delays) <= 2 * queue.delayed + 64
        queued += calls
        delayed += waits
    assert queues.keys() >= pool.runner_table.groups.keys() - {
        runner.kind for runner in pool.runner_table.runners.values()
    }
    flying = [
        call.id
        for runner in pool.runner_table.runners.values()
        for call in runner.in_flight.values()
        if call.state is not CallState.SETTLED
    ]
    given_up = [call.id for call in call_table.calls.values() if is_given_up(pool, call)]
    places = sorted([*(call.id for call in queued), *delayed, *flying, *given_up])
    assert places == sorted(call_table.calls), "a call is in no place, or in two"
    assert not given_up or pool.settle_queue.entries, "a call was given up, and nothing settles it"
    assert (call_table.queued, call_table.delayed) == (len(queued), len(delayed))
    assert call_table.waiting == sum(call.state <= CallState.DELAYED for call in call_table.calls.values())
    for call_id, call in call_table.calls.items():
        assert call.id == call_id
        if call.state <= CallState.DELAYED:
            assert call.runner is None
        elif call_id not in given_up:
            assert call.runner is not None
            assert pool.runner_table.runners[call.runner].in_flight[call_id] is call
    assert call_table.alarms.count <= 2 * len(call_table.calls) + 64
    assert call_table.settled == []


def is_given_up(pool: PoolState, call: Call) -> bool:
    """Whether the end of an unsettled call is decided already."""
    if call.state <= CallState.DELAYED:
        return call.queue is not pool.call_table.queues[call.kind]
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
    going = len(runner_table.retiring) + sum(len(group.yielding) for group in runner_table.groups.values())
    assert excess <= 0 or (len(runner_table.retiring) <= excess <= going and not runner_table.booting)
    assert all(runner.in_flight for runner in in_state(pool, RunnerState.UP) if runner.retiring)
    for runner in runner_table.runners.values():
        if runner.state is RunnerState.LEAVING:
            assert runner.in_flight, "a runner that leaves is done, and was not told to go"
        elif runner.state is not RunnerState.UP:
            assert not runner.in_flight
        if pool.limits.single_use:
            assert runner.slots <= 1
            assert runner.prefetch == 0


def check_nobody_waits_for_nothing(pool: PoolState, now: float) -> None:
    """Invariant 3, for each kind."""
    call_table = pool.call_table
    for kind, group in pool.runner_table.groups.items():
        queue = call_table.queues[kind]
        if not pool.starts_calls:
            # Calls whose slots are booting count as begun.
            waits_for_boots = pool.mode is ShutdownMode.CANCEL_QUEUED and (group.booting or call_table.is_late(now))
            assert not queue.queued or waits_for_boots
            assert not queue.delayed
        elif not call_table.is_late(now):  # else the time of a call may be over
            check_slots_are_full(pool, group)
            check_boots_come(pool, group, now)
    if pool.starts_calls and not call_table.is_late(now):
        check_room_is_made(pool, now)


def check_slots_are_full(pool: PoolState, group: RunnerGroup) -> None:
    runner_table, workers = pool.runner_table, pool.limits.max_workers
    binds = workers is not None and runner_table.slots > workers and runner_table.in_flight >= workers
    if pool.call_table.queues[group.kind].queued and not binds:
        placement = runner_table.placements[group.kind]
        for runner in placement.members.values():
            assert placement.room(runner) <= 0, f"calls wait, and {runner} has room"
    held = runner_table.held
    if held is not None and not binds:
        waits = pool.call_table.queues[held.held_for or ""].queued
        assert not waits or held.in_flight, "a runner without calls is held for a call"


def check_boots_come(pool: PoolState, group: RunnerGroup, now: float) -> None:
    queue = pool.call_table.queues[group.kind]
    if pool.usage.exhausted:
        assert not queue.queued, "a budget is used up, and calls wait"
        assert not queue.delayed
        return
    waiting = queue.queued + max(0, group.load - group.slots)
    if pool.limits.thrifty:
        # A runner takes the calls, or is to take them; and one boots for a call that has waited for too long.
        due = overdue_at(pool, group)
        is_overdue = due is not None and due <= now
        waiting = pool.slots_hint(group) if queue.queued and (is_overdue or group.up == len(group.yielding)) else 0
    assert (
        waiting <= len(group.booting) * pool.slots_hint(group)
        or len(pool.runner_table.runners) >= pool.max
        or cannot_boot(pool, group, now)
        or has_slots_enough(pool, group)
    ), f"{waiting} calls wait for nothing"


def cannot_boot(pool: PoolState, group: RunnerGroup, now: float) -> bool:
    """Whether no boot of this kind may begin now, even if there is room for the runner."""
    return (
        (group.back_off.until is not None and group.back_off.until > now)
        or pool.is_at_last_boots(group)
        or (pool.boots.free <= 0 and (pool.has_member(group) or not pool.boots.all_hang))
    )


def has_slots_enough(pool: PoolState, group: RunnerGroup) -> bool:
    """Whether more slots of this kind would be of no use, because of max_workers."""
    workers, others = pool.limits.max_workers, pool.runner_table.in_flight - group.in_flight
    has_one = pool.is_served(group)
    return (
        workers is not None
        and has_one
        and group.slots + len(group.booting) * pool.slots_hint(group) + others >= workers
    )


def check_room_is_made(pool: PoolState, now: float) -> None:
    """If calls of a kind wait at max, no runner of another kind is kept that could make room for them."""
    groups, queues = pool.runner_table.groups, pool.call_table.queues
    if len(pool.runner_table.runners) < pool.max or len(groups) == 1 or pool.usage.exhausted:
        return
    waiting = [
        group
        for kind, group in groups.items()
        if queues[kind].queued > len(group.booting) * pool.slots_hint(group)
        and not cannot_boot(pool, group, now)
        and not has_slots_enough(pool, group)
        and pool.boots.free > 0
        and not (pool.limits.thrifty and group.staying)
    ]
    going = [runner for runner in pool.runner_table.runners.values() if is_going(runner)]
    if not waiting or len(going) >= len(waiting):
        return
    for kind, group in groups.items():
        others = [each for each in waiting if each is not group]
        if not others or queues[kind].queued:
            continue
        kept = group.up + len(group.booting) - len(group.yielding)
        ahead = group.in_flight > group.slots - max((runner.slots for runner in group.idle.values()), default=0)
        assert not group.idle or ahead or kept <= pool.keep_of(group), f"calls wait, and a runner of {group} is idle"
        starving = [each for each in others if not pool.is_served(each)]
        giving = sum(len(each.yielding) for each in groups.values()) + len(going)
        assert not starving or not group.up or giving, f"calls of a kind without a runner wait, and {group} gives none"


def is_going(runner: Runner) -> bool:
    return runner.retiring or runner.state in (RunnerState.LEAVING, RunnerState.STOPPING)


def check_min(pool: PoolState, now: float) -> None:
    """Invariant 6."""
    runner_table = pool.runner_table
    assert 0 <= pool.idled_below_min <= pool.min <= pool.max
    if pool.usage.exhausted:
        assert not runner_table.booting, "a budget is used up, and runners boot"
        assert not runner_table.idle, "a budget is used up, and an idle runner is kept"
        assert not any(group.idle_check_pending for group in runner_table.groups.values())
        return
    if pool.limits.min_idle_after is None:
        assert pool.idled_below_min == 0
    if pool.call_table.is_late(now):
        return
    if pool.mode is None and pool.broken is None:
        group = runner_table.groups[DEFAULT_KIND]
        kept = group.up + len(group.booting) >= pool.min - pool.idled_below_min
        bound = len(runner_table.runners) >= pool.max or pool.boots.free <= 0
        assert kept or cannot_boot(pool, group, now) or bound, "less than min are kept"


def check_deadline(machine: Machine, now: float) -> None:
    """What is due has been done, and what will be due has been asked for."""
    deadline, pool = machine.deadline(), machine.pool
    call_table = pool.call_table
    delays = [delay for queue in call_table.queues.values() for delay in queue.delays]
    due = [call_id for due, call_id in delays if call_id in call_table.calls and due <= now]
    if pool.settle_queue.entries or call_table.is_late(now) or due:
        assert pool.is_behind
        assert deadline == now, "something is left to be done, and the machine does not ask for it"
        return
    assert deadline is None or deadline > now
    ends = [call.deadline for call in machine.unsettled() if call.deadline is not None]
    assert all(end > now for end in ends)
    if ends:
        assert deadline is not None
        assert deadline <= min(ends)


def boots_are_needed(pool: PoolState, kind: str) -> bool:
    """After an event with boots: whether the last of those of a kind is needed, by waiting calls or by min."""
    group = pool.runner_table.groups[kind]
    others = len(group.booting) - 1
    waiting = pool.call_table.queues[kind].queued + max(0, group.load - group.slots)
    least = pool.min if kind == DEFAULT_KIND else 0
    return others < ceil(waiting / pool.slots_hint(group)) or group.up - len(group.yielding) + others < least
