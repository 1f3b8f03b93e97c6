"""Random courses of events for a pool's machine: six invariants hold whatever happens, in whatever order.

1. No more runners than max, and no runner with more calls than its slots and its credit.
2. Every accepted call is in exactly one place, and settles exactly once.
3. A call waits only for a slot, a boot, a delay or a limit that exists.
4. After a shutdown no runner boots, no call is sent, every call settles, and every runner is stopped exactly once.
5. Any event in any state gives a list of actions, never an exception.
6. `min` runners are kept.

`validate` checks what a state shows. `World` checks what only the course of events shows. `pool_courses` has the steps.
"""

from __future__ import annotations

import pytest

from tests.support.courses import check_courses
from tests.support.pool_courses import DependentMachineAndWorld, MachineAndWorld, NestingMachineAndWorld


def test_any_course_of_events_keeps_the_invariants() -> None:
    check_courses(MachineAndWorld, count=500, length=30)


def test_spare_runners_and_calls_that_wait_for_their_arguments_keep_them_too() -> None:
    check_courses(DependentMachineAndWorld, count=100, length=30)


def test_calls_that_wait_for_child_calls_keep_them_too() -> None:
    check_courses(NestingMachineAndWorld, count=200, length=30)


@pytest.mark.soak
def test_many_courses_of_events_keep_the_invariants() -> None:
    check_courses(MachineAndWorld, count=50_000, length=30)
    check_courses(DependentMachineAndWorld, count=50_000, length=30)
    check_courses(NestingMachineAndWorld, count=50_000, length=30)
