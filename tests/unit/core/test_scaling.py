"""Scaling: functions from numbers to numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor.core.scaling import (
    MAX_AHEAD,
    MAX_PREFETCH,
    NEAR,
    BackOff,
    boots_for,
    boots_needed,
    cost_after,
    cost_of_stuck,
    prefetch,
)

DEFAULTS = {"waiting": 0, "up": 0, "booting": 0, "total": 0, "at_least": 0, "at_most": 9, "slots_hint": 2}


@pytest.mark.parametrize(
    ("cost", "slots", "round_trip", "expected"),
    [
        (None, 4, 0.0, 4),  # nothing is known yet: one a slot
        (0.0, 2, 0.0, 2 * MAX_PREFETCH),
        (1e-6, 1, 0.0, MAX_PREFETCH),
        (0.0005, 2, 0.0, 20),  # 5 ms of work for each slot
        (0.004, 3, 0.0, 3),
        (0.005, 3, 0.0, 0),  # long enough to wait for one by one
        (10.0, 3, 0.0, 0),
        (0.010, 2, 0.0005, 0),  # near: a round trip does not count
        (0.010, 2, 0.030, 12),  # far: three calls a slot cover it, twice as many under load
        (0.010, 2, 0.031, 14),
        (0.0005, 1, 0.002, 10),  # the span covers the round trip already
        (0.0001, 1, 1.0, MAX_AHEAD),
        (0.0001, 2, 0.010, 2 * 200),  # far, and small: more than would wait on a runner here
        (0.4, 2, 0.1, 2),  # a quarter of the slot's time would be lost
        (1.0, 2, 0.1, 0),  # a tenth is not worth having calls wait behind a long one
    ],
)
def test_prefetch_follows_what_calls_cost(cost: float | None, slots: int, round_trip: float, expected: int) -> None:
    assert prefetch(cost, slots, round_trip) == expected


@given(st.none() | st.floats(0, 1e6), st.integers(1, 1000), st.floats(0, 1e3))
def test_prefetch_is_bounded_and_never_negative(cost: float | None, slots: int, round_trip: float) -> None:
    assert 0 <= prefetch(cost, slots, round_trip) <= slots * (MAX_PREFETCH if round_trip <= NEAR else MAX_AHEAD)


@given(st.floats(1e-7, 1e3), st.floats(0, 1e3))
def test_what_is_sent_ahead_is_bounded_in_time(cost: float, round_trip: float) -> None:
    """Five milliseconds, or two round trips; and one call more, since a part of one cannot be sent."""
    assert (prefetch(cost, 1, round_trip) - 1) * cost <= max(0.005, 2 * round_trip) * 1.000_001


@given(st.floats(0, 1e3), st.floats(0, 1e3))
def test_what_was_stuck_is_not_prefetched_and_one_fast_batch_makes_up_for_it(cost: float, round_trip: float) -> None:
    stuck = cost_of_stuck(cost, round_trip)
    assert stuck >= cost
    assert prefetch(stuck, 4, round_trip) == 0
    assert prefetch(cost_after(0.010, 0.0001, 100), 4) > 0


def test_a_cost_is_learnt_from_batches_as_from_single_results() -> None:
    assert cost_after(None, 3.0, 3) == 1.0
    single = 1.0
    for _ in range(8):
        single = cost_after(single, 0.0, 1)
    assert cost_after(1.0, 0.0, 8) == 0.5
    assert 0.3 < single < 0.5, "eight results weigh about the same, one by one or together"


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({"waiting": 0}, 0),
        ({"waiting": 1}, 1),
        ({"waiting": 5}, 3),
        ({"waiting": 5, "booting": 2, "total": 2}, 1),  # those that boot will hold four
        ({"waiting": 4, "booting": 2, "total": 2}, 0),
        ({"waiting": 100}, 9),
        ({"waiting": 100, "up": 3, "total": 8}, 1),  # stopping ones count
        ({"waiting": 100, "total": 12}, 0),
        ({"at_least": 2}, 2),
        ({"at_least": 2, "up": 1, "booting": 1, "total": 2}, 0),
        ({"at_least": 2, "total": 8, "at_most": 9}, 1),
        ({"at_least": 3, "waiting": 2}, 3),
        ({"at_least": 1, "waiting": 6}, 3),
        ({"waiting": 100, "slots_allowed": 4}, 2),
        ({"waiting": 100, "slots_allowed": 3, "booting": 1, "total": 1}, 1),
        ({"waiting": 100, "slots_allowed": 0}, 0),
        ({"waiting": 100, "slots_allowed": -3, "at_least": 1}, 1),  # min stands above max_workers
    ],
)
def test_boots(given_: dict[str, int], expected: int) -> None:
    assert boots_needed(**{**DEFAULTS, "slots_allowed": None, **given_}) == expected


@given(st.integers(-5, 1000), st.integers(1, 50))
def test_runners_for_calls_are_enough_and_not_one_too_many(waiting: int, slots: int) -> None:
    count = boots_for(waiting, slots)
    assert count * slots >= waiting
    assert count == 0 or (count - 1) * slots < waiting


def test_a_back_off_ends_by_time_by_success_and_by_new_demand_after_giving_up() -> None:
    back_off = BackOff()
    assert not back_off.holds(0.0)
    back_off.failed(5.0)
    back_off.failed(3.0)
    assert (back_off.failures, back_off.until) == (2, 5.0), "the longer pause counts"
    assert back_off.holds(4.9)
    back_off.demanded()
    assert back_off.holds(4.9), "asking again does not help before the pool has given up"
    assert not back_off.holds(5.0)
    back_off.failed(9.0)
    back_off.succeeded()
    assert (back_off.failures, back_off.until) == (0, None)
    back_off.failed(20.0)
    assert back_off.gave_up() == 1
    assert back_off.holds(10.0), "min does not boot without a pause"
    back_off.demanded()
    assert not back_off.holds(10.0)
