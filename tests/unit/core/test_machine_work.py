"""How much work an event is: as much as it changes, however much there is beside it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from dragonfly_executor.core import events
from dragonfly_executor.core.call_table import Call, CallLimits
from dragonfly_executor.core.machine import Machine, PoolLimits
from dragonfly_executor.core.usage import UsageCaps

HURRIED = CallLimits(timeout=1e6, queue_timeout=1e5, retries=1, retry_delays=(50.0,))


def instructions(function: Callable[[], object]) -> int:
    """How many of the interpreter's instructions a call takes: the same on every machine, unlike its time."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    # 3.12 looks, when tracing begins, whether any frame wants opcodes: one that asks for them later comes too late.
    sys._getframe().f_trace_opcodes = True
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


def busy_machine(runners: int, queued: int) -> Machine:
    """A pool of so many full runners with so many calls waiting. Calls 1, 2, ... are on the runners."""
    machine = Machine(PoolLimits(max=runners, slots_hint=2))
    machine.handle(events.Submitted([Call(i, b"", None, HURRIED) for i in range(1, 4 * runners + queued + 1)]), 0.0)
    for runner_id in range(1, runners + 1):
        machine.handle(events.BootSucceeded(runner_id, 2), 0.0)
    assert machine.pool.call_table.queued == queued
    machine.deadline()  # sorts the alarms of the calls that were sent, once for each
    return machine


def booting_machine(runners: int, queued: int, **limits: Any) -> Machine:
    """The same, and of the runners only the first is up. The nodes of the others were asked for."""
    machine = Machine(PoolLimits(max=runners + 1, max_concurrent_boots=runners + 1, **limits))
    calls = [Call(i, b"", None, HURRIED) for i in range(1, runners + queued + 3)]
    machine.handle(events.Submitted(calls), 0.0)
    for runner_id in range(1, runners + 2):
        machine.handle(events.BootStarted(runner_id), 0.0)
    machine.handle(events.BootSucceeded(1, 1), 0.0)
    assert len(machine.pool.runner_table.booting) == runners
    machine.deadline()
    return machine


def queueing_machine(runners: int, queued: int) -> Machine:
    """The boots wait in a queue, and all calls but two are cancelled."""
    machine = booting_machine(runners, queued)
    for runner_id in range(2, runners + 2):
        machine.handle(events.BootQueued(runner_id), 0.0)
    machine.handle(events.CancelRequested(range(3, runners + queued + 3)), 0.0)
    assert machine.pool.runner_table.default.needless_since == 0.0
    machine.deadline()
    return machine


def budgeted_machine(runners: int, queued: int) -> Machine:
    return booting_machine(runners, queued, caps=UsageCaps(machine_seconds=1e9, cost=1e9, price=0.1))


def closing_machine(runners: int, queued: int) -> Machine:
    """Boots are under way in a shutdown that waits for all calls."""
    machine = booting_machine(runners, queued)
    machine.handle(events.ShutdownRequested(events.ShutdownMode.DRAIN), 0.0)
    return machine


def shrinking_machine(runners: int, queued: int) -> Machine:
    """Half of the runners are to retire."""
    machine = busy_machine(runners, queued)
    machine.handle(events.Resized(0, runners // 2), 0.0)
    assert len(machine.pool.runner_table.retiring) == runners // 2
    return machine


def idle_machine(runners: int, queued: int) -> Machine:
    machine = busy_machine(runners, queued)
    machine.handle(events.CancelRequested(range(1, 4 * runners + queued + 1)), 0.0)
    for runner in list(machine.pool.runner_table.runners.values()):
        for call in list(runner.in_flight.values()):
            machine.handle(events.CallGone(runner.id, call.id, call.attempt), 0.0)
    assert machine.pool.runner_table.idle == runners
    # The first call passes over what the calls before it have left in the order of runners: once, for all of them.
    machine.handle(events.Submitted([Call(10**8, b"", None, HURRIED)]), 0.0)
    machine.handle(events.ResultsArrived(1, [(10**8, 1, 1.0, "result", False)]), 0.0)
    machine.deadline()
    return machine


def spent_machine(runners: int, queued: int) -> Machine:
    """Nothing begins any more, and what runs goes on."""
    machine = Machine(PoolLimits(max=runners, slots_hint=2, caps=UsageCaps(machine_seconds=1e-3)))
    machine.handle(events.Submitted([Call(i, b"", None, HURRIED) for i in range(1, 4 * runners + queued + 1)]), 0.0)
    for runner_id in range(1, runners + 1):
        machine.handle(events.BootSucceeded(runner_id, 2), 0.0)
    machine.handle(events.Tick(), 1.0)
    while machine.pool.is_behind:
        machine.handle(events.Tick(), 1.0)
    assert machine.pool.runner_table.in_flight == 4 * runners
    machine.deadline()
    return machine


ONE_MORE = events.Submitted([Call(10**9, b"", None, HURRIED)])
RESULT = events.ResultsArrived(1, [(1, 1, 1.0, "result", False)])
EVENTS: dict[str, tuple[Callable[[int, int], Machine], events.Event]] = {
    "tick": (busy_machine, events.Tick()),
    "submit": (busy_machine, ONE_MORE),
    "cancel a queued call": (busy_machine, events.CancelRequested([9])),
    "cancel a running call": (busy_machine, events.CancelRequested([1])),
    "call started": (busy_machine, events.CallsStarted(1, [(1, 1)])),
    "result": (busy_machine, RESULT),
    "retry": (busy_machine, events.ResultsArrived(1, [(1, 1, 1.0, "result", True)])),
    "lost call": (busy_machine, events.CallLost(1, 1, 1, OSError(), True)),
    "returned call": (busy_machine, events.CallsReturned(1, [(2, 1)])),
    "call timed out": (busy_machine, events.CallTimedOut(1, 1, 1)),
    "round trip": (busy_machine, events.RoundTrip(1, 0.1)),
    "lost runner": (busy_machine, events.RunnerLost(1, OSError())),
    "runner leaves": (busy_machine, events.RunnerLeaving(1)),
    "a runner's end is told": (busy_machine, events.RunnerEnding(1, 1000.0, "it ended")),
    "a runner drains": (busy_machine, events.RunnerEnding(1, 1.0, "it ended")),
    "runner is gone": (busy_machine, events.RunnerGone(1)),
    "stale": (busy_machine, events.CallGone(77, 1, 1)),
    "node asked for": (booting_machine, events.BootStarted(2)),
    "boot waits": (booting_machine, events.BootQueued(2)),
    "boot fails": (booting_machine, events.BootFailed(2, OSError(), 1.0)),
    "runner up": (booting_machine, events.BootSucceeded(2, 2)),
    "runner up at a price": (booting_machine, events.BootSucceeded(2, 2, 0.25)),
    "boot is aborted": (booting_machine, events.RunnerLeaving(3)),
    "boot goes on": (queueing_machine, events.BootStarted(2)),
    "submit while boots wait": (queueing_machine, ONE_MORE),
    "boot waits, with a budget": (budgeted_machine, events.BootQueued(2)),
    "runner up, with a budget": (budgeted_machine, events.BootSucceeded(2, 2, 0.25)),
    "boot fails, with a budget": (budgeted_machine, events.BootFailed(2, OSError(), 1.0)),
    "result in a shutdown": (closing_machine, RESULT),
    "result while others retire": (shrinking_machine, RESULT),
    "submit while others retire": (shrinking_machine, ONE_MORE),
    "submit to idle runners": (idle_machine, ONE_MORE),
    "submit when the budget is used up": (spent_machine, ONE_MORE),
    "result when the budget is used up": (spent_machine, RESULT),
}


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_costs_what_it_changes(name: str) -> None:
    make, event = EVENTS[name]
    make(2, 2).handle(event, 1.0)  # loads what it takes
    costs = []
    for runners, queued in [(2, 20), (2, 2000), (50, 20)]:
        machine = make(runners, queued)
        costs.append(instructions(lambda: (machine.handle(event, 1.0), machine.deadline())))  # noqa: B023  # at once
    assert max(costs) <= 1.5 * min(costs) + 200


def test_a_pool_is_told_of_without_a_walk_over_its_calls_and_runners() -> None:
    costs = []
    for runners, queued in [(2, 20), (2, 2000), (50, 20)]:
        machine = busy_machine(runners, queued)
        machine.stats(0.0)  # loads what it takes
        costs.append(instructions(lambda: machine.stats(1.0)))  # noqa: B023  # at once
        assert len(machine.stats(1.0).runners) == runners
    assert max(costs) == min(costs)


def test_a_pool_that_is_made_smaller_step_by_step_does_not_look_at_all_runners_each_time() -> None:
    costs = []
    for runners in (10, 200):
        machine = busy_machine(runners, 0)
        machine.handle(events.Resized(0, runners - 1), 0.0)
        costs.append(instructions(lambda: machine.handle(events.Resized(0, runners - 2), 0.0)))  # noqa: B023  # at once
    assert max(costs) <= 1.5 * min(costs) + 200


def test_the_order_by_which_runners_retire_is_dropped_when_nobody_asks_for_it() -> None:
    machine = busy_machine(10, 100)
    machine.handle(events.Resized(0, 9), 0.0)
    lightest = machine.pool.runner_table._least_loaded
    assert lightest.is_kept
    for runner_id in range(2, 8):
        calls = machine.pool.runner_table.runners[runner_id].in_flight.values()
        machine.handle(events.ResultsArrived(runner_id, [(call.id, 1, 1.0, None, False) for call in calls]), 0.0)
    assert not lightest.is_kept


def test_a_batch_costs_less_a_call_than_single_calls() -> None:
    def cost(batch: int) -> int:
        machine = Machine(PoolLimits())
        machine.handle(events.Submitted([Call(1, b"", None, HURRIED)]), 0.0)
        machine.handle(events.BootSucceeded(1, 100), 0.0)
        calls = [Call(i, b"", None, HURRIED) for i in range(2, 102)]
        batches = [calls[i : i + batch] for i in range(0, len(calls), batch)]
        return instructions(lambda: [machine.handle(events.Submitted(each), 0.0) for each in batches])

    assert 4 * cost(100) < cost(1)
