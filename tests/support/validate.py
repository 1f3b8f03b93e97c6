"""What must hold of a machine between any two events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import ceil, fsum, isclose

from dragonfly_executor.core import overflow
from dragonfly_executor.core.actions import Boot
from dragonfly_executor.core.call_queue import CallQueue
from dragonfly_executor.core.calls import DEFAULT_KIND, DELAYED, QUEUED, SETTLED, STARTED, Call
from dragonfly_executor.core.events import ShutdownMode
from dragonfly_executor.core.key_costs import weight_of
from dragonfly_executor.core.machine import Machine
from dragonfly_executor.core.placement import RANK
from dragonfly_executor.core.runner import UP, Runner, RunnerState
from dragonfly_executor.core.runner_endings import calls_to_replace, fits, next_time
from dragonfly_executor.core.runner_group import RunnerGroup
from dragonfly_executor.core.sharing import thrifty_overdue_at
from dragonfly_executor.core.state import PoolState
from dragonfly_executor.core.usage import Usage


class Survey:
    """What one walk over all runners and one walk over all calls find. All checks of a state use the same survey.

    Attributes:
        runners: all runners.
        up, booting: the runners in these states.
        of_group: the runners of each kind and tier.
        slots, in_flight, load, busy: sums over the runners that are up.
        calls_on: each runner, with the number of its calls of each kind.
        in_flight_of: the number of calls of each kind on all runners.
        retiring: ids of the runners that are up and retire.
        flying: ids of the unsettled calls on runners.
        waiting, started: numbers of unsettled calls by state.
        given_up: ids of the unsettled calls whose end is decided.
        first_deadline: the earliest deadline of an unsettled call; None if no call has one.
    """

    def __init__(self, pool: PoolState) -> None:
        self.runners = list(pool.runner_table.runners.values())
        self.up: list[Runner] = []
        self.booting: list[Runner] = []
        self.of_group: dict[tuple[str, int], list[Runner]] = {}
        self.slots = self.in_flight = self.load = self.busy = 0
        self.calls_on: list[tuple[Runner, dict[str, int]]] = []
        self.in_flight_of: Counter[str] = Counter()
        self.retiring: list[int] = []
        self.flying: list[int] = []
        self._walk_over_runners()
        self.waiting = self.started = 0
        self.given_up: list[int] = []
        self.first_deadline: float | None = None
        self._walk_over_calls(pool)

    def _walk_over_runners(self) -> None:
        for runner in self.runners:
            state, load = runner.state, runner.load
            self.of_group.setdefault((runner.kind, runner.tier), []).append(runner)
            if state is UP:
                self.up.append(runner)
                self.slots += runner.slots
                self.in_flight += len(runner.in_flight)
                self.load += load
                self.busy += min(load, runner.slots)
                if runner.retiring:
                    self.retiring.append(runner.id)
            elif state is RunnerState.BOOTING:
                self.booting.append(runner)
            kinds: dict[str, int] = {}
            self.calls_on.append((runner, kinds))
            for call in runner.in_flight.values():
                kinds[call.kind] = kinds.get(call.kind, 0) + 1
                if call.state is not SETTLED:
                    self.flying.append(call.id)
            self.in_flight_of.update(kinds)

    def _walk_over_calls(self, pool: PoolState) -> None:
        queues, runners = pool.call_table.queues, pool.runner_table.runners
        deadlines = []
        for call_id, call in pool.call_table.calls.items():
            assert call.id == call_id
            state = call.state
            if state <= DELAYED:
                assert call.runner is None
                self.waiting += 1
                if call.queue is not queues[call.kind]:
                    self.given_up.append(call_id)
            else:
                self.started += state is STARTED
                runner = None if call.runner is None else runners.get(call.runner)
                found = None if runner is None else runner.in_flight.get(call_id)
                if found is None:
                    self.given_up.append(call_id)
                else:
                    assert found is call
            if call.deadline is not None:
                deadlines.append(call.deadline)
        self.first_deadline = min(deadlines, default=None)


def validate(machine: Machine, now: float, *, lends: bool = False) -> Survey:
    """Check all that can be seen in a state.

    Args:
        machine: the machine.
        now: the time of the last event.
        lends: whether calls have waited for child calls. After that, runners may have too many calls for a while.
    """
    pool = machine.pool
    survey = Survey(pool)
    check_sums(pool, survey, lends=lends)
    check_what_is_told(pool, survey)
    check_meter(pool)
    check_places(pool, survey)
    check_boots(pool, survey)
    check_queued_boots(pool, now)
    check_endings(pool, now)
    check_bounds(pool, survey)
    check_nobody_waits_for_nothing(pool, now)
    check_min(pool, now)
    check_spares(pool, now)
    check_deadline(machine, survey, now)
    return survey


def check_sums(pool: PoolState, survey: Survey, *, lends: bool) -> None:
    """Check that the table's sums and orders are what the survey finds."""
    table, groups = pool.runner_table, pool.runner_table.groups
    assert groups.keys() == table.placements.by_kind.keys()
    assert table.all_groups == [group for each in groups.values() for group in each]
    for kind, each in groups.items():
        for group in each:
            check_group(kind, group, survey.of_group.get((kind, group.tier.index), []))
        check_placement(pool, survey, kind)
    for tier in table.tiers:
        assert tier.count == sum(runner.tier == tier.index for runner in survey.runners)
    for runner, kinds in survey.calls_on:
        check_shares(pool, runner, kinds, lends=lends)
    assert table.up == len(survey.up)
    assert list(table.booting.values()) == survey.booting
    assert (table.slots, table.in_flight) == (survey.slots, survey.in_flight)
    assert (table.load, table.busy) == (survey.load, survey.busy)
    assert {kind for kind, _ in survey.of_group} <= groups.keys()
    idle, retiring = 0, list(table.retiring)
    for group in table.all_groups:
        idle += len(group.idle)
        retiring += group.yielding
    assert table.idle == idle
    assert sorted(retiring) == sorted(survey.retiring)
    assert not table.retired, "a runner that is to retire has no call, and was not told to go"
    assert pool.call_table.started == survey.started


def check_group(kind: str, group: RunnerGroup, runners: list[Runner]) -> None:
    """Check that the sums and orders of one kind are what a walk over its runners finds."""
    assert group.kind == kind
    assert list(group.runners.values()) == runners
    up = slots = in_flight = load = busy = 0
    booting, without_call = [], {}
    for runner in runners:
        if runner.state is UP:
            up += 1
            slots += runner.slots
            in_flight += len(runner.in_flight)
            load += runner.load
            busy += min(runner.load, runner.slots)
            if not runner.in_flight:
                without_call[runner.id] = runner
        elif runner.state is RunnerState.BOOTING:
            booting.append(runner)
    assert (group.up, group.slots, group.in_flight, group.load, group.busy) == (up, slots, in_flight, load, busy)
    assert list(group.booting.values()) == booting
    assert {**group.idle, **group.idle_check_pending} == without_call
    assert not group.idle.keys() & group.idle_check_pending.keys()
    since = [runner.idle_since for runner in group.idle.values()]
    assert since == sorted(since), "the runner that is idle for the longest time is not first"
    assert group.staying >= 0


def check_placement(pool: PoolState, survey: Survey, kind: str) -> None:
    """Check that the room for calls of a kind is what a walk over all runners finds."""
    table, placement = pool.runner_table, pool.runner_table.placements.by_kind[kind]
    assert placement.kind == kind
    members = [runner for runner in survey.up if placement.fits(runner)]
    assert {runner.id: runner for runner in members} == placement.members
    giving = [runner.id in table.groups[runner.kind][runner.tier].yielding for runner in members]
    assert placement.yielding == sum(giving)
    for tier in table.tiers:
        own = [placement._at_once(runner) for runner in members if runner.tier == tier.index]
        assert placement.slots[tier.index] == sum(own)
    assert kind == DEFAULT_KIND or placement.in_flight == survey.in_flight_of[kind]
    if placement._packed is not None:
        free = [runner for runner in members if placement.room(runner) > 0]
        free = [runner for runner in free if not (runner.is_short and runner.load)]
        free = [runner for runner in free if placement._packs[runner.tier]]
        listed = {i: load % RANK for i, load in placement._packed._load_of.items()}
        assert listed == {runner.id: runner.load + len(runner.lent) for runner in free}


def check_shares(pool: PoolState, runner: Runner, kinds: dict[str, int], *, lends: bool) -> None:
    """Check that what the calls of a runner require fits in it together, and is what a walk over them finds.

    Args:
        pool: the state.
        runner: the runner.
        kinds: the number of its calls of each kind.
        lends: whether calls have waited for child calls.
    """
    placements, capacity = pool.runner_table.placements.by_kind, runner.capacity
    extra = gpus = memory = 0
    assert runner.lent.keys() <= runner.in_flight.keys()
    assert not runner.lent or (runner.state is UP and not runner.retiring), "a call there waits for its child calls"
    if runner.lent:
        extra -= len(runner.lent)
        kinds = dict(kinds)
        for call in runner.lent.values():
            kinds[call.kind] -= 1
    for kind, count in kinds.items():
        placement = placements[kind]
        assert placement.fits(runner), "a call is on a runner on which it does not fit"
        if placement.requirements is not None and placement.shares:
            extra += count * (placement.requirements.slots_of(runner.slots, capacity) - 1)
            gpus += count * placement.requirements.gpus
            memory += count * placement.requirements.memory
    assert (runner.extra, runner.gpus_used, runner.memory_used) == (extra, gpus, memory)
    if not lends:
        assert not extra or runner.load <= runner.slots, "calls take more than the slots of their runner"
        assert capacity is None or (gpus <= capacity.gpus and memory <= capacity.memory)
    is_held = runner is pool.runner_table.placements.held
    assert (runner.state is UP and runner.held_for is not None) == is_held
    assert not is_held or placements[runner.held_for or ""].members.get(runner.id) is runner


def check_what_is_told(pool: PoolState, survey: Survey) -> None:
    """Check that the rows for `stats` are what a walk over all runners finds."""
    walked = [
        (each.id, (each.id, each.state, each.slots, len(each.in_flight), each.done, each.capacity))
        for each in survey.runners
    ]
    assert list(pool.runner_table.rows.items()) == walked


def check_meter(pool: PoolState) -> None:
    """Check that the usage's sums are what a walk over its runners finds, to the last bit."""
    for tier in pool.runner_table.tiers:
        check_usage(pool, tier.usage)
    check_usage(pool, pool.usage)


def check_usage(pool: PoolState, usage: Usage) -> None:
    assert usage._runners.keys() <= pool.runner_table.runners.keys()
    prices = [price for _, price in usage._runners.values()]
    assert usage._rate == fsum(price for price in prices if price is not None)
    assert usage._unpriced >= prices.count(None)
    assert usage.is_capped or usage.until is None


def check_places(pool: PoolState, survey: Survey) -> None:
    """Check invariant 2: every unsettled call is in exactly one place."""
    call_table, queues, calls = pool.call_table, pool.call_table.queues, pool.call_table.calls
    places = [*survey.flying, *survey.given_up]
    queued = delayed = 0
    for kind, queue in queues.items():
        waits = [call for call in queue._fresh if call.state is QUEUED]
        waits += [entry[2] for entry in (*queue._early, *queue._late) if entry[2].state is QUEUED]
        assert queue.has_keys or not any(call.limits.key for call in waits)
        check_order(queue)
        check_key_costs(pool, queue, waits)
        delays = [calls[call_id] for _, call_id in queue.delays if call_id in calls]
        assert queue.dependent <= calls.keys(), "a call waits for its arguments, and is settled"
        delays += [calls[call_id] for call_id in queue.dependent]
        assert (queue.queued, queue.delayed) == (len(waits), len(delays))
        assert queue.total is call_table.total
        assert len(queue._fresh) + len(queue._early) + len(queue._late) <= 2 * queue.queued + 64
        assert len(queue.delays) <= 2 * queue.delayed + 64
        queued += len(waits)
        delayed += len(delays)
        waits += delays
        assert {call.kind for call in waits} <= {kind}
        places += [call.id for call in waits]
    assert queues.keys() >= pool.runner_table.groups.keys() - {kind for kind, _ in survey.of_group}
    assert len(places) == len(calls), "a call is in no place, or in two"
    assert calls.keys() == set(places), "a call is in no place, or in two"
    assert not survey.given_up or pool.settle_queue.entries, "a call was given up, and nothing settles it"
    assert (call_table.queued, call_table.delayed) == (queued, delayed)
    assert call_table.waiting == survey.waiting
    assert call_table.alarms.count <= 2 * len(calls) + 64
    assert call_table.settled == []


def check_order(queue: CallQueue) -> None:
    """Check that each call is in the part of the queue that its priority asks for."""
    fresh = [call.id for call in queue._fresh]
    assert fresh == sorted(fresh)
    plain = [call for priority, _, call in queue._early if not (priority or call.depth)]
    sent_before = [call.id for call in plain if call.state is QUEUED]
    assert not any(call.depth for call in queue._fresh), "a child call waits behind others"
    assert not fresh or max(sent_before, default=0) < fresh[0], "a call that came back is before one that it overtook"
    entries = [*queue._fresh, *(entry[2] for entry in (*queue._early, *queue._late))]
    assert queue.settled == sum(call.state is not QUEUED for call in entries)
    assert not any(call.limits.priority for call in queue._fresh)
    assert all(priority <= 0 for priority, _, _ in queue._early)
    assert all(priority > 0 for priority, _, _ in queue._late)


def check_key_costs(pool: PoolState, queue: CallQueue, waits: list[Call]) -> None:
    """Check that the expected work of the calls with a key is what a walk over these calls finds."""
    keys = queue.key_costs
    assert (keys is not None) == pool.limits.thrifty
    if keys is None:
        return
    running = [
        call
        for group in pool.runner_table.all_groups
        if group.costs is not None
        for call in (*group.costs.running, *group.costs._slow)
        if call.queue is queue
    ]
    for group in pool.runner_table.all_groups:
        if group.costs is not None:
            assert len(group.costs._dues) <= 2 * len(group.costs._slow) + 65
    waiting, runs = (Counter(call.limits.key for call in calls if call.limits.key) for calls in (waits, running))
    for number, cost in keys._costs.items():
        assert (cost.waiting, cost.running) == (waiting[number], runs[number])
        assert (number in keys._resting) == (not cost.waiting and not cost.running)
    assert waiting.keys() | runs.keys() <= keys._costs.keys()
    known = {number: cost for number, cost in keys._costs.items() if cost.capped is not None}
    for work, counts in ((keys.waiting, waiting), (keys.running, runs)):
        assert work.calls == sum(counts[number] for number in known)
        assert isclose(work.capped, sum(counts[i] * (cost.capped or 0.0) for i, cost in known.items()), abs_tol=1e-6)
        assert isclose(work.seconds, sum(counts[i] * cost.seconds for i, cost in known.items()), abs_tol=1e-6)
    new = [count for number, count in waiting.items() if number not in known]
    assert keys.new_calls == sum(new)
    assert isclose(keys.new_weight, sum(map(weight_of, new)), abs_tol=1e-6)


def is_given_up(pool: PoolState, call: Call) -> bool:
    """Return True if the end of an unsettled call is decided already."""
    if call.state <= DELAYED:
        return call.queue is not pool.call_table.queues[call.kind]
    runner = pool.runner_table.runners.get(call.runner or 0)
    return runner is None or call.id not in runner.in_flight


def check_boots(pool: PoolState, survey: Survey) -> None:
    """Check that each boot has a place, and that no runner that is up or gone has one."""
    for tier in pool.runner_table.tiers:
        boots, runners = tier.boots, [runner for runner in survey.runners if runner.tier == tier.index]
        assert boots._taken >= {runner.id for runner in runners if runner.state is RunnerState.BOOTING}
        assert boots._taken <= {runner.id for runner in runners if runner.state is not UP}
        assert not boots.hung & pool.runner_table.runners.keys()
        assert 0 <= boots.free == boots.at_most - len(boots._taken) - len(boots.hung)
        most = tier.limits.max
        assert most is None or tier.count <= most, "a backend has more runners than it may have"


def check_queued_boots(pool: PoolState, now: float) -> None:
    """A boot in a queue that no call needs is aborted after a while."""
    groups = pool.runner_table.all_groups
    assert pool.runner_table.queued == sum(len(group.queued) for group in groups)
    for group in groups:
        assert group.queued.keys() == {runner.id for runner in group.runners.values() if runner.is_queued}
        assert group.queued.keys() <= group.booting.keys()
        queue = pool.call_table.queues.get(group.kind)
        calls = 0 if queue is None else pool.waiting_for(group) + queue.delayed
        calls += calls_to_replace(pool, group)
        kept = pool.keep_of(group) - (group.up - len(group.yielding) - len(group.ending.runners))
        needed = max(ceil(calls / pool.slots_hint(group)), kept)
        needless = min(len(group.queued), len(group.booting) - needed)
        if group.kind == DEFAULT_KIND and pool.limits.spare and is_in_use(pool):
            needless = min(needless, runners_ahead(pool) - pool.limits.spare)
        assert (group.needless_since is not None) == (needless > 0)
        if group.needless_since is not None:
            assert 0 < group.needless <= needless
            assert now < group.needless_since + pool.limits.queued_idle_after or not pool.limits.queued_idle_after


def check_endings(pool: PoolState, now: float) -> None:
    """A runner whose end is known has begun to drain in time, and no runner outlives its end."""
    assert not pool.runner_table.placements.passed_over
    assert pool.runner_table.ending == sum(len(group.ending.runners) for group in pool.runner_table.all_groups)
    for group in pool.runner_table.all_groups:
        ending = [each for each in group.runners.values() if each.id in group.ending.runners]
        assert len(ending) == len(group.ending.runners)
        assert all(each.state is UP and each.replace_at <= now < each.drains_at for each in ending)
        assert group.ending.slots == sum(each.slots for each in ending)
        used = [each.slots for each in ending if each.sent_at >= each.replace_at]
        assert sum(used) <= group.ending.used_slots <= group.ending.slots
    for runner in pool.runner_table.runners.values():
        if runner.ends_at is not None and runner.state in (RunnerState.UP, RunnerState.LEAVING):
            when = next_time(pool, runner)
            assert when is not None
            assert when > now, "a runner should drain, or be stopped"
            assert (when, runner.id) in pool.runner_table.endings


def check_bounds(pool: PoolState, survey: Survey) -> None:
    """Check invariant 1, as far as a state shows it: after a resize the runners beyond max are on their way out."""
    runner_table = pool.runner_table
    excess = runner_table.up + len(runner_table.booting) - pool.max
    going = len(runner_table.retiring) + sum(len(group.yielding) for group in runner_table.all_groups)
    assert runner_table.lent == sum(len(runner.lent) for runner in survey.runners)
    going += sum(bool(runner.lent) for runner in survey.up)  # it stays while child calls may need it
    assert excess <= 0 or (len(runner_table.retiring) <= excess <= going and not runner_table.booting)
    for runner in survey.runners:
        if runner.state is UP:
            assert runner.in_flight or not runner.retiring
        elif runner.state is RunnerState.LEAVING:
            assert runner.in_flight, "a runner that leaves is done, and was not told to go"
        else:
            assert not runner.in_flight
        if pool.limits.single_use:
            assert runner.slots <= 1
            assert runner.prefetch == 0


def check_nobody_waits_for_nothing(pool: PoolState, now: float) -> None:
    """Invariant 3, for each kind."""
    call_table = pool.call_table
    for kind, groups in pool.runner_table.groups.items():
        queue = call_table.queues[kind]
        if not pool.starts_calls:
            # Calls whose slots are booting count as begun.
            boots = any(group.booting for group in groups)
            waits_for_boots = pool.mode is ShutdownMode.CANCEL_QUEUED and (boots or call_table.is_late(now))
            assert not queue.queued or waits_for_boots
            assert not queue.delayed
        elif not call_table.is_late(now):  # else the time of a call may be over
            check_slots_are_full(pool, groups[0], now)
            if pool.is_tiered:
                check_tiers_boot(pool, groups, now)
            else:
                check_boots_come(pool, groups[0], now)
    if pool.starts_calls and not call_table.is_late(now) and not pool.is_tiered:
        check_room_is_made(pool, now)


def check_slots_are_full(pool: PoolState, group: RunnerGroup, now: float) -> None:
    runner_table, workers = pool.runner_table, pool.limits.max_workers
    running = runner_table.in_flight - runner_table.lent
    binds = workers is not None and runner_table.slots > workers and running >= workers
    queue = pool.call_table.queues[group.kind]
    if queue.queued and not binds:
        placement = runner_table.placements.by_kind[group.kind]
        for runner in placement.members.values():
            has_time = any(fits(runner, call, now) for call in queue.next_few())
            # What one tier leaves to the earlier ones is not sent to a later one either.
            later = runner_table.groups[group.kind][1 : runner.tier + 1]
            soon = [overflow.calls_begun_soon(pool, queue, each, now) for each in later]
            is_held_back = queue.queued <= max(soon, default=0)
            assert placement.room(runner) <= 0 or not has_time or is_held_back, f"calls wait, and {runner} has room"
    held = runner_table.placements.held
    if held is not None and not binds:
        waits = pool.call_table.queues[held.held_for or ""].queued
        assert not waits or held.in_flight, "a runner without calls is held for a call"


def check_boots_come(pool: PoolState, group: RunnerGroup, now: float) -> None:
    queue = pool.call_table.queues[group.kind]
    if pool.usage.exhausted:
        assert not queue.queued, "a budget is used up, and calls wait"
        assert not queue.delayed
        return
    waiting = queue.queued + max(0, group.load - group.slots) + calls_to_replace(pool, group)
    if pool.limits.thrifty:
        # A runner takes the calls, or is to take them; and one boots for a call that has waited for too long.
        due = thrifty_overdue_at(pool, group)
        is_overdue = due is not None and due <= now
        waiting = pool.slots_hint(group) if queue.queued and (is_overdue or group.up == len(group.yielding)) else 0
    assert (
        waiting <= len(group.booting) * pool.slots_hint(group)
        or len(pool.runner_table.runners) >= pool.max
        or cannot_boot(pool, group, now)
        or has_slots_enough(pool, group)
    ), f"{waiting} calls wait for nothing"


def check_tiers_boot(pool: PoolState, groups: Sequence[RunnerGroup], now: float) -> None:
    """Calls that wait have a runner, or a boot, or a tier that may boot one, or none of them can."""
    waiting = pool.waiting_calls(groups[0].kind)
    if not waiting or pool.usage.exhausted or pool.has_member(groups[0]) or any(group.booting for group in groups):
        return
    for group in groups:
        full = len(pool.runner_table.runners) >= pool.max or group.tier.count == group.tier.limits.max
        if any(pool.may_boot(earlier) for earlier in groups[: group.tier.index]):
            # An earlier tier is to boot for these calls first, until they have waited for this tier's boot time.
            due = overflow.tier_overdue_at(pool, group)
            if due is not None and due > now:
                continue
        assert cannot_boot(pool, group, now) or full or not pool.may_boot(group) or has_slots_enough(pool, group), (
            f"{waiting} calls wait for nothing"
        )
    # Boots that hang are told to the calls only after the pause of a failed boot.
    hang = any(group.tier.boots.all_hang for group in groups)
    pauses = hang and any(group.back_off.until is not None and group.back_off.until > now for group in groups)
    assert pauses or any(pool.may_boot(group) for group in groups), "calls wait, and no boot can ever begin"


def cannot_boot(pool: PoolState, group: RunnerGroup, now: float) -> bool:
    """Whether no boot of this kind may begin now, even if there is room for the runner."""
    return (
        (group.back_off.until is not None and group.back_off.until > now)
        or pool.is_at_last_boots(group)
        or (group.tier.boots.free <= 0 and (pool.has_member(group) or not group.tier.boots.all_hang))
    )


def has_slots_enough(pool: PoolState, group: RunnerGroup) -> bool:
    """Whether more slots of this kind would be of no use, because of max_workers."""
    workers, others = pool.limits.max_workers, pool.runner_table.in_flight - group.in_flight
    others -= pool.runner_table.lent
    has_one = pool.is_served(group)
    return (
        workers is not None
        and has_one
        and group.slots - group.ending.slots + len(group.booting) * pool.slots_hint(group) + others >= workers
    )


def check_room_is_made(pool: PoolState, now: float) -> None:
    """If calls of a kind wait at max, no runner of another kind is kept that could make room for them."""
    queues = pool.call_table.queues
    groups = {kind: group for kind, (group,) in pool.runner_table.groups.items()}
    if len(pool.runner_table.runners) < pool.max or len(groups) == 1 or pool.usage.exhausted:
        return
    waiting = [
        group
        for kind, group in groups.items()
        if queues[kind].queued > len(group.booting) * pool.slots_hint(group)
        and not cannot_boot(pool, group, now)
        and not has_slots_enough(pool, group)
        and group.tier.boots.free > 0
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
        ahead = group.load > group.slots - max((runner.slots for runner in group.idle.values()), default=0)
        placements_of = pool.runner_table.placements.of
        # An idle runner on which waiting calls fit is kept: `max_workers` has them wait.
        needed = [any(queues[each.kind].queued for each in placements_of(runner)) for runner in group.idle.values()]
        is_idle = not all(needed)
        assert not is_idle or ahead or kept <= pool.keep_of(group), f"calls wait, and a runner of {group} is idle"
        starving = [each for each in others if not pool.is_served(each)]
        giving = sum(len(each.yielding) for each in groups.values()) + len(going)
        giving += all(runner.lent or runner.state is not UP for runner in group.runners.values())
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
        assert not any(group.idle_check_pending for group in runner_table.all_groups)
        return
    if pool.limits.min_idle_after is None:
        assert pool.idled_below_min == 0
    if pool.call_table.is_late(now):
        return
    if pool.mode is None and pool.broken is None:
        for group in runner_table.groups[DEFAULT_KIND]:
            kept = group.up - len(group.ending.runners) + len(group.booting) >= pool.keep_of(group)
            bound = len(runner_table.runners) >= pool.max or group.tier.boots.free <= 0
            bound = bound or group.tier.count == group.tier.limits.max or not pool.may_boot(group)
            assert kept or cannot_boot(pool, group, now) or bound, "less than min are kept"


def is_in_use(pool: PoolState) -> bool:
    """Whether calls of the default kind wait, or runners that were booted for them have calls."""
    for call in pool.call_table.calls.values():
        if call.kind == DEFAULT_KIND and call.state <= DELAYED and not is_given_up(pool, call):
            return True
    groups = pool.runner_table.groups[DEFAULT_KIND]
    return any(runner.in_flight for group in groups for runner in group.runners.values() if runner.state is UP)


def runners_ahead(pool: PoolState) -> int:
    """How many runners of the default kind are there beyond those that its calls fill, counted one by one."""
    count = 0
    groups = pool.runner_table.groups[DEFAULT_KIND]
    for group in groups:
        staying = [
            runner
            for runner in group.runners.values()
            if runner.state is UP
            and runner.id not in group.yielding
            and runner.id not in group.ending.runners
            and runner.id not in group.idle_check_pending
        ]
        up = [runner for runner in group.runners.values() if runner.state is UP]
        busy = sum(min(runner.slots, len(runner.in_flight) + runner.extra) for runner in up)
        count += len(staying) - ceil(busy / pool.slots_hint(group))
    return count - boots_missing(pool)


def boots_missing(pool: PoolState) -> int:
    """How many more boots the waiting calls of the default kind need than there are."""
    groups = pool.runner_table.groups[DEFAULT_KIND]
    for_calls = ceil(pool.waiting_calls(DEFAULT_KIND) / pool.slots_hint(groups[0]))
    return for_calls - sum(len(group.booting) for group in groups)


def check_spares(pool: PoolState, now: float) -> None:
    """While there are calls, `spare` runners are ahead of them, unless something keeps them from booting."""
    if not pool.limits.spare or pool.mode is not None or pool.broken is not None or pool.usage.exhausted:
        return
    if pool.call_table.is_late(now) or not is_in_use(pool) or runners_ahead(pool) >= pool.limits.spare:
        return
    if boots_missing(pool) > 0 or any(group.gate is not None for group in pool.runner_table.all_groups):
        return
    for group in pool.runner_table.groups[DEFAULT_KIND]:
        full = len(pool.runner_table.runners) >= pool.max or group.tier.boots.free <= 0
        full = full or group.tier.count == group.tier.limits.max
        fails = group.back_off.failures > 0 or cannot_boot(pool, group, now)
        fails = fails or (pool.is_tiered and not pool.may_boot(group))
        assert full or fails or has_slots_enough(pool, group), "fewer spare runners than asked for"


def check_deadline(machine: Machine, survey: Survey, now: float) -> None:
    """What is due has been done, and what will be due has been asked for."""
    deadline, pool = machine.deadline(), machine.pool
    call_table = pool.call_table
    is_due = any(
        due <= now and call_id in call_table.calls
        for queue in call_table.queues.values()
        for due, call_id in queue.delays
    )
    if pool.settle_queue.entries or call_table.is_late(now) or is_due:
        assert pool.is_behind
        assert deadline == now, "something is left to be done, and the machine does not ask for it"
        return
    assert deadline is None or deadline > now
    # Between two events, no call is settled and still to be taken: `check_places`.
    if survey.first_deadline is not None:
        assert survey.first_deadline > now
        assert deadline is not None
        assert deadline <= survey.first_deadline


def boots_are_needed(pool: PoolState, boot: Boot) -> bool:
    """After an event with boots: whether the last of those of a kind is needed, by waiting calls or by min."""
    kind = boot.kind
    group = pool.runner_table.groups[kind][boot.tier]
    others, going = len(group.booting) - 1, len(group.yielding) + len(group.ending.runners)
    waiting = pool.waiting_calls(kind) + calls_to_replace(pool, group)
    least = pool.min if kind == DEFAULT_KIND else 0
    if kind == DEFAULT_KIND and pool.limits.spare and is_in_use(pool) and runners_ahead(pool) <= pool.limits.spare:
        return True
    return others < ceil(waiting / pool.slots_hint(group)) or group.up - going + others < least
