"""What ends thousands of calls does not keep a pool from all else: a slice of them ends in each turn of its loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from itertools import pairwise
from typing import Any

import pytest

from dragonfly_executor import Pool
from dragonfly_executor.core import actions
from dragonfly_executor.engine import core_driver
from dragonfly_executor.errors import CallTimeoutError, InitializerError
from dragonfly_executor.testing import FakeBackend, FakeRunner, VirtualClock
from dragonfly_executor.transport.loop import Loop
from tests.engine.conftest import MakePool
from tests.support.helpers import PATIENCE, error_of
from tests.support.payloads import echo, fail

MANY = 4500
SLICE = 1000
TURN = 0


class Course:
    """What an engine does from now on, in order: it settles so many calls, or its loop begins a turn."""

    def __init__(self, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[int] = []
        self._settle: Callable[[actions.Settle], None] = core_driver.settle
        self._loop: Loop = pool._engine._loop
        monkeypatch.setattr(core_driver, "settle", self._note)
        self._loop.call_soon_threadsafe(self._turn)

    def _turn(self) -> None:
        self.steps.append(TURN)
        self._loop.call_soon(self._turn)

    def _note(self, action: actions.Settle) -> None:
        self.steps.append(len(action.outcomes))
        self._settle(action)

    def check(self, count: int) -> None:
        """So many calls were settled, in slices, with turns between them: then links and timers were looked at."""
        assert sum(self.steps) == count
        assert max(self.steps) <= SLICE
        steps = [step > TURN for step in self.steps]
        assert (True, True) not in pairwise(steps)


def fill(pool: Pool) -> tuple[list[Future[Any]], list[int]]:
    """Submit many calls; their futures, and the numbers of those that are done, in the order in which they are told."""
    futures, done = [pool.submit(echo, number) for number in range(MANY)], list[int]()
    for number, future in enumerate(futures):
        future.add_done_callback(lambda _, number=number: done.append(number))  # type: ignore[misc]
    assert pool.stats().calls_queued == MANY
    return futures, done


def test_cancelling_what_waits_goes_in_slices(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    hold = threading.Event()
    pool = make_pool(backend=FakeBackend(FakeRunner(hold=hold), slots=2), max_concurrency=2)
    futures, done = fill(pool)
    course = Course(pool, monkeypatch)
    pool.shutdown(wait=False, cancel_futures=True)
    wait(futures[2:], PATIENCE)
    hold.set()
    pool.join()
    # The boot was under way for two of them: as where processes start, these count as begun.
    assert [future.result(0) for future in futures[:2]] == [0, 1]
    assert all(future.cancelled() for future in futures[2:])
    assert done[: MANY - 2] == list(range(2, MANY))
    assert sum(course.steps[: course.steps.index(SLICE) + 1]) == SLICE, "the first slice comes at once"
    course.check(MANY)


def test_the_calls_of_a_broken_pool_fail_in_slices(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    hold = threading.Event()
    broken = ValueError("no licence")
    pool = make_pool(backend=FakeBackend(FakeRunner(hold=hold)), initializer=fail, initargs=(broken,))
    futures, _ = fill(pool)
    course = Course(pool, monkeypatch)
    hold.set()
    assert isinstance(error_of(futures[-1]), InitializerError)
    assert all(isinstance(error_of(future), InitializerError) for future in futures)
    course.check(MANY)


def test_calls_time_out_in_slices(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    hold, clock = threading.Event(), VirtualClock()
    pool = make_pool(backend=FakeBackend(FakeRunner(hold=hold), clock=clock), timeout=60, boot_timeout=3600)
    futures, done = fill(pool)
    course = Course(pool, monkeypatch)
    clock.advance(61)
    assert all(isinstance(error_of(future), CallTimeoutError) for future in futures)
    hold.set()
    pool.kill()
    pool.join()
    assert done == list(range(MANY))
    course.check(MANY)


def test_a_kill_ends_all_calls_in_slices(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    hold = threading.Event()
    pool = make_pool(backend=FakeBackend(FakeRunner(hold=hold)))
    futures, done = fill(pool)
    course = Course(pool, monkeypatch)
    pool.kill()
    hold.set()
    pool.join()
    assert all(future.cancelled() for future in futures)
    assert done == list(range(MANY))
    course.check(MANY)
