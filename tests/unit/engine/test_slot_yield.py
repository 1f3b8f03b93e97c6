"""Slots that several calls share give way to other calls that wait, and only then."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from dragonfly_executor.core.events import RunnerLeaving
from dragonfly_executor.core.runner import UP, Runner, RunnerState
from dragonfly_executor.engine.task_slots.slot_yield import TURN, SlotYield


class Loop:
    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Callable[[], object]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object]) -> None:
        self.timers.append((when, callback))


class SharedSlots:
    """Slots as `SlotYield` sees them; `ages` in seconds."""

    def __init__(self, *ages: float, idle: tuple[int, ...] = ()) -> None:
        self.loop: Any = Loop()
        self.open_slots: list[Any] = [
            SimpleNamespace(
                number=number, opened_at=100.0 - age, is_idle=number in idle, is_leaving=False, runner_id=number
            )
            for number, age in enumerate(ages, 1)
        ]
        self.left: list[int] = []

    def handle(self, event: RunnerLeaving) -> None:
        self.left.append(event.runner_id)


def machine(*, calls: int, started: int, busy: int, slots: int, runners: tuple[Runner, ...] = ()) -> Any:
    table = SimpleNamespace(calls=dict.fromkeys(range(calls)), started=started)
    some = SimpleNamespace(
        busy=busy,
        slots=slots,
        runners={runner.id: runner for runner in runners},
        up=sum(runner.state is UP for runner in runners),
        booting={},
        retiring={runner.id: runner for runner in runners if runner.retiring},
        retired={},
    )
    return SimpleNamespace(pool=SimpleNamespace(call_table=table, runner_table=some))


def runner_of(number: int, *, state: RunnerState = UP, retiring: bool = False) -> Runner:
    runner = Runner(number, "")
    runner.state, runner.retiring = state, retiring
    return runner


def left(shared: SharedSlots, waiting: int = 0, /, **state: Any) -> list[int]:
    SlotYield(shared, lambda: waiting).review(machine(**state), is_open=True)
    return shared.left


def test_no_slot_leaves_while_no_other_call_waits() -> None:
    assert left(SharedSlots(9.0, 9.0, idle=(1,)), calls=2, started=2, busy=2, slots=2) == []
    # What waits is a slot for such calls itself.
    assert left(SharedSlots(9.0), 3, calls=4, started=1, busy=1, slots=1) == []
    # There is a free slot for it.
    assert left(SharedSlots(9.0), calls=2, started=1, busy=1, slots=2) == []


def test_an_idle_slot_leaves_first_and_at_once() -> None:
    assert left(SharedSlots(9.0, 0.0, idle=(2,)), calls=3, started=2, busy=2, slots=2) == [2]


def test_the_oldest_slot_leaves_once_its_turn_is_over() -> None:
    assert left(SharedSlots(TURN, 9.0), calls=3, started=2, busy=2, slots=2) == [2]
    assert left(SharedSlots(TURN, 9.0), calls=9, started=2, busy=2, slots=2) == [2, 1]


def test_a_slot_that_leaves_already_counts() -> None:
    slots = SharedSlots(9.0, 9.0)
    slots.open_slots[0].is_leaving = True
    assert left(slots, calls=3, started=2, busy=2, slots=2) == []


def test_a_young_slot_is_looked_at_again_when_its_turn_is_over() -> None:
    slots = SharedSlots(0.25)
    state = machine(calls=2, started=1, busy=1, slots=1)
    yielding = SlotYield(slots, lambda: 0)
    yielding.review(state, is_open=True)
    yielding.review(state, is_open=True)
    assert slots.left == []
    [(when, callback)] = slots.loop.timers
    assert when == 100.0 - 0.25 + TURN
    slots.loop.now = when
    callback()
    assert slots.left == [1]


def test_a_slot_leaves_with_its_runner() -> None:
    runners = runner_of(1), runner_of(2, retiring=True), runner_of(3, state=RunnerState.LEAVING)
    shared = SharedSlots(0.0, 0.0, 0.0)
    assert left(shared, calls=3, started=3, busy=3, slots=3, runners=runners) == [2, 3]
    assert left(SharedSlots(0.0), calls=1, started=1, busy=1, slots=1, runners=runners[:1]) == []
