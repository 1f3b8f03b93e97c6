"""How fast Fly is asked."""

from __future__ import annotations

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.fly import client
from dragonfly_executor.backends.fly.client import MachinesAPI, full_jitter
from dragonfly_executor.backends.fly.rate_limit import DEFAULT, MAX_BUCKETS, RATES, RateLimit, RateLimiter
from dragonfly_executor.backends.fly.settings import APIAccess
from tests.support.fly_simulator import errors
from tests.support.fly_simulator.simulator import Simulator

ACTIONS = ("create", "get")
steps = st.lists(st.tuples(st.sampled_from(ACTIONS), st.floats(0, 3)), max_size=60)


def test_what_is_done_late_does_not_bring_the_next_one_forward() -> None:
    """Fly counts from when it is asked: the one after three at once comes a second after the first."""
    pacer = RateLimiter()
    assert pacer.reserve("create", "app", 100.0) == 0.0
    pacer.was_late("create", "app", 100.4, 0.4)
    assert [pacer.reserve("create", "app", 100.4) for _ in range(2)] == [0.0, 0.0]
    assert pacer.reserve("create", "app", 100.4) == pytest.approx(1.0)


@given(steps)
def test_it_is_never_faster_than_it_may_be_and_never_slower_than_it_has_to(waits: list[tuple[str, float]]) -> None:
    """In any stretch of time there are no more requests than burst and rate allow; and one too many waits for one."""
    pacer, now = RateLimiter(), 100.0
    sent: dict[str, list[float]] = {action: [] for action in ACTIONS}
    for action, pause in waits:
        now += pause
        sent[action].append(now + pacer.reserve(action, "app", now))
    for action, times in sent.items():
        rate = RATES.get(action, DEFAULT)
        assert times == sorted(times)
        for first in range(len(times)):
            for last in range(first, len(times)):
                count, seconds = last - first + 1, times[last] - times[first]
                assert count <= rate.burst + seconds * rate.per_second + 1e-6
        if len(times) <= rate.burst:
            assert times == [t for t in times if t <= now + 1e-9]


def test_eight_creates_at_once_take_five_seconds() -> None:
    """Reference 1.5: 1 a second, 3 at once."""
    pacer = RateLimiter()
    assert [pacer.reserve("create", "app", 10.0) for _ in range(8)] == [0, 0, 0, 1, 2, 3, 4, 5]
    assert pacer.reserve("create", "another app", 10.0) == 0
    assert pacer.reserve("list", "app", 10.0) == 0
    assert pacer.reserve("create", "app", 1000.0) == 0


def test_get_is_faster() -> None:
    pacer = RateLimiter()
    turns = [pacer.reserve("get", "machine", 0.0) for _ in range(12)]
    assert turns == pytest.approx([0] * 10 + [0.2, 0.4])


@given(st.lists(st.floats(-1000, 1000), min_size=4, max_size=20))
def test_a_clock_that_jumps_back_gives_nothing(times: list[float]) -> None:
    pacer = RateLimiter()
    free = sum(pacer.reserve("create", "app", now) == 0 for now in times)
    assert free <= DEFAULT.burst + max(0.0, max(times) - min(times)) * DEFAULT.per_second + 1


def test_machines_that_are_gone_are_forgotten() -> None:
    pacer = RateLimiter()
    for number in range(3 * MAX_BUCKETS):
        pacer.reserve("destroy", str(number), float(number))
    assert len(pacer._buckets) <= MAX_BUCKETS
    assert RateLimit(1.0, 3) == DEFAULT


def test_pauses_between_tries_are_drawn(on_fly: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full jitter, from a quarter of a second on to four seconds: who failed together does not come back together."""
    tries: list[int] = []
    monkeypatch.setattr(client, "full_jitter", lambda state: tries.append(state.attempt_number) or 0.0)
    on_fly.faults.on("list", times=3, reply=errors.platform(502))
    MachinesAPI(APIAccess.find(on_fly.environment)).runners(Deadline(10.0))
    assert tries == [1, 2, 3]
    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    for number in range(1, 12):
        state.attempt_number = number
        draws = {full_jitter(state) for _ in range(20)}
        assert len(draws) > 1
        assert 0 <= min(draws) <= max(draws) <= min(4.0, 0.25 * 2 ** (number - 1))
