"""Long courses of events with hundreds of calls: queues and heaps that grow, are swept and grow again.

`tests/unit/core/test_machine_world.py` has short courses, and the invariants. A long course takes half a second.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from dragonfly_executor.core import events
from tests.support.pool_courses import LIMITS, MachineAndWorld


@pytest.mark.parametrize(("seed", "kinds"), [(0, 1), (1, 1), (2, 1), (3, 1), (0, 2), (1, 3), (27, 2), (80, 3)])
def test_a_long_course_of_events_with_many_calls_keeps_the_invariants(seed: int, kinds: int) -> None:
    dice = random.Random(seed)
    state = MachineAndWorld()
    state.open(calls=7, first=0, warm=True, kinds=kinds, min=1, max=4, slots_hint=3, idle_after=5.0, max_workers=9)
    world = state.world

    def cancel_some() -> None:
        world.feed(events.CancelRequested(dice.sample(sorted(world.accounts)[-400:], 5)))

    def submit_some() -> None:
        if len(world.machine.unsettled()) < 300:
            mixed = dice.choices(state.kinds, k=dice.choice([1, 3]))
            world.submit([dice.choice(LIMITS)] * dice.choice([1, 10, 100]), mixed)

    def number() -> int:
        return dice.randrange(8)

    def results_arrive() -> None:
        cost = dice.choice([0.0, 0.002, 2.0])
        state.results_arrive(number(), number(), cost, retryable=number() == 0, twice=number() == 0)

    steps: list[tuple[int, Callable[[], object]]] = [
        (9, submit_some),
        (3, lambda: state.all_runners_come_and_go(dice.choice([2, 4]))),
        (9, lambda: state.things_go_well(steps=2)),
        (9, results_arrive),
        (3, lambda: state.calls_start(number(), number())),
        (3, lambda: state.calls_are_returned(number(), number())),
        (3, lambda: state.call_leaves(number(), number(), dice.choice(["lost", "unstarted", "timed out", "gone"]))),
        (3, lambda: state.boot_succeeds(number(), 4, 0.1)),
        (3, lambda: state.time_passes(dice.choice([0.01, 0.3, 3.0]))),
        (3, cancel_some),
        (2, state.the_deadline_comes),
        (2, lambda: state.something_late_arrives(number() % 6, number())),
        (1, lambda: state.boot_fails(number(), 0.5, 0)),
        (1, lambda: state.runner_is_lost(number(), up=True, rare=number() % 2, got=number(), ran=None)),
        (1, lambda: state.runner_is_lost(number(), up=True, rare=number() % 2, got=number(), ran=number())),
        (1, lambda: state.resize(1, dice.choice([2, 4]), rare=0)),
        (1, lambda: state.round_trip_is_measured(number(), 0.01)),
    ]
    weights = [weight for weight, _ in steps]
    for _, take in dice.choices(steps, weights, k=1500):
        take()
    assert len(world.accounts) > 1000
    state.end()
    assert world.closed
