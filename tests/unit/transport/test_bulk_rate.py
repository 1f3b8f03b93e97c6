"""The rate of large payloads: measured only while the stream is the bottleneck."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor.transport.bulk_rate import LEAST_TIME, BulkRate


def test_it_is_unknown_at_first() -> None:
    rate = BulkRate()
    assert rate.per_second() is None
    rate.add(10**9, LEAST_TIME / 2)
    assert rate.per_second() is None


@given(st.floats(1e3, 1e10), st.lists(st.floats(0.001, 10), min_size=1, max_size=50))
def test_a_steady_rate_is_found(rate: float, times: list[float]) -> None:
    measured = BulkRate()
    for seconds in times:
        measured.add(int(rate * seconds), seconds)
    if sum(times) > 4:
        assert measured.per_second() == pytest.approx(rate, rel=0.01)


def test_a_rate_that_changes_is_followed() -> None:
    measured = BulkRate()
    for _ in range(100):
        measured.add(100, 1.0)
    for _ in range(20):
        measured.add(1, 1.0)
    assert measured.per_second() == pytest.approx(1, rel=0.01)
