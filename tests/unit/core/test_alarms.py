"""Alarms come in the order of time, however they were added, and nothing of those that were dropped is kept."""

from __future__ import annotations

import random

import pytest

from dragonfly_executor.core.alarms import LANES, Alarms


@pytest.mark.parametrize("timeouts", [[5.0], [5.0, 60.0], [float(n) for n in range(1, 3 * LANES)]])
@pytest.mark.parametrize("seed", range(5))
def test_the_earliest_alarm_comes_first(timeouts: list[float], seed: int) -> None:
    dice = random.Random(seed)
    alarms, expected = Alarms(), set[tuple[float, int]]()
    for call_id in range(1000):
        when = call_id / 10 + dice.choice(timeouts)
        alarms.add(when, call_id)
        expected.add((when, call_id))
        first = alarms.first
        assert first == min(expected)
        if dice.random() < 0.7:
            alarms.drop()
            expected.remove(first)
        assert alarms.count == len(expected)
    alarms.keep(lambda alarm: alarm[1] % 3 > 0)
    left = sorted(alarm for alarm in expected if alarm[1] % 3 > 0)
    while (first := alarms.first) is not None:
        assert first == left.pop(0)
        alarms.drop()
    assert not left
    assert alarms.count == 0


def test_alarms_of_a_few_timeouts_need_no_heap() -> None:
    alarms = Alarms()
    for call_id in range(1000):
        alarms.add(call_id + [5.0, 3600.0, 60.0][call_id % 3], call_id)
    assert not alarms._heap
    assert len(alarms._lanes) <= 3
    alarms.clear()
    assert (alarms.count, alarms.first) == (0, None)
