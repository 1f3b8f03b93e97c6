"""Random courses of events for a pool with several backends: the invariants of `test_machine_world` hold there too."""

from __future__ import annotations

import pytest

from tests.support.courses import check_courses
from tests.support.tiered_courses import DependentTieredMachineAndWorld, TieredMachineAndWorld


def test_any_course_of_events_keeps_the_invariants() -> None:
    check_courses(TieredMachineAndWorld, count=120, length=30)


def test_spare_runners_and_calls_that_wait_for_their_arguments_keep_them_too() -> None:
    check_courses(DependentTieredMachineAndWorld, count=40, length=30)


@pytest.mark.soak
def test_many_courses_of_events_keep_the_invariants() -> None:
    check_courses(TieredMachineAndWorld, count=25_000, length=30)
    check_courses(DependentTieredMachineAndWorld, count=25_000, length=30)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "seed",
    [
        # A resize stops the last runner for calls whose backends are all passed over, or hang in all boots.
        993189947,
        7,
        # Runners that yield are beyond `max` after a resize, and then need not yield any more.
        112,
        # To ask how many calls earlier tiers begin soon changes which of their calls are long.
        222,
        # A runner that ends soon has room for a call that comes up once others were sent elsewhere.
        131,
        # A call that overtook others, because it had the time on a runner that ends soon, comes back before them.
        216,
    ],
)
def test_courses_that_failed_once(seed: int) -> None:
    check_courses(TieredMachineAndWorld, count=120, length=30, seed=seed)
