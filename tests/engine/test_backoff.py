"""Pauses between attempts: ours by default, tenacity's where the user says so."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor import DragonflyExecutor
from dragonfly_executor.testing import FakeBackend
from dragonfly_executor.util.backoff import DRAWN, delay, delays, exponential
from tests.support.helpers import PATIENCE


@given(st.integers(1, 10_000), st.floats(0.001, 5.0), st.floats(0.0, 400.0), st.floats(0.0, 2.0))
def test_a_pause_doubles_to_its_maximum_and_has_jitter(attempt: int, first: float, most: float, jitter: float) -> None:
    pause = exponential(attempt, first=first, most=most, jitter=jitter)
    without = float(tenacity.wait_exponential(multiplier=first, max=most)(state(attempt)))
    assert without <= pause <= without + jitter


def test_jitter_differs_from_pause_to_pause() -> None:
    assert len({delay(None, 3) for _ in range(20)}) > 10


def test_pauses_between_attempts_grow() -> None:
    first, second, third = delays(None, 3)
    assert 0.1 <= first <= 0.2 <= second <= 0.3
    assert 0.4 <= third <= 0.5


@pytest.mark.parametrize("retries", [10**6, 2**31, sys.maxsize, 2**70])
def test_any_number_of_retries_costs_a_submit_the_same(retries: int) -> None:
    asked: list[int] = []

    def wait(state: Any) -> float:
        asked.append(state.attempt_number)
        return 0.0

    with DragonflyExecutor(backend=FakeBackend(slots=1)) as executor:
        assert executor.options(retries=retries).submit(abs, -1).result(PATIENCE) == 1
        assert executor.options(retries=retries, retry_wait=wait).submit(abs, -1).result(PATIENCE) == 1
    assert len(delays(None, retries)) == len(asked) == DRAWN
    assert asked == sorted(asked)


def test_a_strategy_of_the_users_is_asked_with_the_number_of_the_attempt() -> None:
    assert delays(tenacity.wait_incrementing(start=1, increment=2), 3) == (1.0, 3.0, 5.0)
    assert delay(lambda state: -state.attempt_number, 2) == 0.0


@pytest.mark.parametrize("broken", [False, True], ids=["calls with retries", "boots that fail"])
def test_our_own_pauses_bring_neither_tenacity_nor_asyncio(broken: bool) -> None:
    program = f"""
import sys
from dragonfly_executor import DragonflyExecutor
from dragonfly_executor.testing import FakeBackend, FakeRunner

runner = FakeRunner(error=OSError("no room")) if {broken} else FakeRunner()
with DragonflyExecutor(backend=FakeBackend(runner, slots=1), max_boot_failures=2) as executor:
    assert executor.options(retries=2).submit(abs, -1).result(30) == 1
print([name for name in ("asyncio", "tenacity") if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (ran.stdout, ran.stderr) == ("[]\n", "")


def state(attempt: int) -> Any:
    found = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    found.attempt_number = attempt
    return found
