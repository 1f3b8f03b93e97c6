"""How much work an event is: as much as it changes, however much there is beside it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from dragonfly_executor.core import events
from dragonfly_executor.core.ledger import Call, CallLimits
from dragonfly_executor.core.machine import Machine, PoolLimits

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
    assert machine.pool.ledger.queued == queued
    machine.deadline()  # sorts the alarms of the calls that were sent, once for each
    return machine


EVENTS: dict[str, Callable[[Machine], events.Event]] = {
    "tick": lambda _: events.Tick(),
    "submit": lambda _: events.Submitted([Call(10**9, b"", None, HURRIED)]),
    "cancel a queued call": lambda machine: events.CancelRequested([max(machine.pool.ledger.calls)]),
    "cancel a running call": lambda _: events.CancelRequested([1]),
    "result": lambda _: events.ResultsArrived(1, [(1, 1, 1.0, "result", False)]),
    "retry": lambda _: events.ResultsArrived(1, [(1, 1, 1.0, "result", True)]),
    "lost call": lambda _: events.CallLost(1, 1, 1, OSError(), True),
    "returned call": lambda _: events.CallsReturned(1, [(2, 1)]),
    "lost runner": lambda _: events.RunnerLost(1, OSError()),
    "stale": lambda _: events.CallGone(77, 1, 1),
}


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_costs_what_it_changes(name: str) -> None:
    costs = []
    for runners, queued in [(2, 20), (2, 2000), (50, 20)]:
        machine = busy_machine(runners, queued)
        event = EVENTS[name](machine)
        costs.append(instructions(lambda: (machine.handle(event, 1.0), machine.deadline())))  # noqa: B023  # at once
    assert max(costs) <= 1.5 * min(costs) + 200


def test_a_batch_costs_less_a_call_than_single_calls() -> None:
    def cost(batch: int) -> int:
        machine = Machine(PoolLimits())
        machine.handle(events.Submitted([Call(1, b"", None, HURRIED)]), 0.0)
        machine.handle(events.BootSucceeded(1, 100), 0.0)
        calls = [Call(i, b"", None, HURRIED) for i in range(2, 102)]
        batches = [calls[i : i + batch] for i in range(0, len(calls), batch)]
        return instructions(lambda: [machine.handle(events.Submitted(each), 0.0) for each in batches])

    assert 4 * cost(100) < cost(1)
