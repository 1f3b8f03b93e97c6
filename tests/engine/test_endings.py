"""Nodes whose end is known: their runners drain before it, and their calls are told who has ended them."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from dragonfly_executor import BootRequest, Node, RunnerLostError
from dragonfly_executor.testing import FakeBackend, FakeRunner, VirtualClock
from tests.engine.conftest import MakeExecutor, MakePool
from tests.support.helpers import PATIENCE, Events, Gate, Mailbox, error_of
from tests.support.payloads import echo, hold

LIMIT = "the test ended it at its time limit"


class LimitedBackend(FakeBackend):
    """Its nodes live for 100 s, or as long as the test says to the requests."""

    default_max = 2

    def __init__(self, clock: VirtualClock, lifetime: float | None = 100.0, runners: Sequence[FakeRunner] = ()) -> None:
        super().__init__(*runners, slots=1, clock=clock)
        self._lifetime = lifetime
        self.asked = threading.Semaphore(0)

    def boot(self, request: BootRequest) -> Node:
        self.asked.release()
        node = super().boot(request)
        node.lifetime, node.ended_by = self._lifetime, LIMIT
        return node


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


def test_a_runner_drains_before_its_end_and_its_call_hears_who_ended_it(
    make_pool: MakePool, clock: VirtualClock, mailbox: Mailbox, gate: Gate
) -> None:
    """Calls that come in between have a runner of their own."""
    events = Events()
    pool = make_pool(backend=LimitedBackend(clock), max=2, max_concurrency=1, on_event=events, idle_shutdown_after=None)
    lost = pool.submit(hold, mailbox.path, gate.path)
    mailbox.read()
    clock.advance(69.9)
    assert pool.stats().runners_up == 1
    clock.advance(0.1)
    assert (pool.stats().runners_up, pool.stats().runners_stopping) == (0, 1)
    assert pool.submit(echo, 2).result(PATIENCE) == 2
    assert pool.stats().runners_up == 1
    assert not lost.done()
    clock.advance(30)
    error = error_of(lost)
    assert isinstance(error, RunnerLostError)
    assert f"runner 1 was lost: {LIMIT}" in str(error)
    assert error.runner_id == 1
    assert events.wait("down")["text"] == "runner 1 is down: its time is over"
    gate.open()


def test_a_runner_whose_calls_end_in_time_loses_none(
    make_pool: MakePool, clock: VirtualClock, mailbox: Mailbox, gate: Gate
) -> None:
    pool = make_pool(backend=LimitedBackend(clock), max=1, max_concurrency=1)
    future = pool.submit(hold, mailbox.path, gate.path, "done")
    mailbox.read()
    clock.advance(80)
    gate.open()
    assert future.result(PATIENCE) == "done"
    assert pool.submit(echo, 2).result(PATIENCE) == 2
    assert pool.stats().boots_attempted == 2


def test_a_notice_comes_while_calls_run(make_pool: MakePool, clock: VirtualClock, mailbox: Mailbox, gate: Gate) -> None:
    """As on machines that are taken back. It shortens what is left."""
    backend = LimitedBackend(clock, lifetime=None)
    pool = make_pool(backend=backend, max=1, max_concurrency=1)
    lost = pool.submit(hold, mailbox.path, gate.path)
    mailbox.read()
    clock.advance(1000)
    notice = threading.Thread(target=backend.requests[0].ending, args=(10.0, "the cloud took its machine back"))
    notice.start()
    notice.join()
    assert pool.stats().runners_up == 1
    clock.advance(5)
    assert (pool.stats().runners_up, pool.stats().runners_stopping) == (0, 1)
    clock.advance(5)
    assert "the cloud took its machine back" in str(error_of(lost))
    gate.open()


def test_a_call_goes_only_where_it_has_the_time(make: MakeExecutor, clock: VirtualClock) -> None:
    executor = make(backend=LimitedBackend(clock), max=2, max_concurrency=1, idle_shutdown_after=None)
    assert executor.submit(echo, 1).result(PATIENCE) == 1
    clock.advance(50)
    stats = executor.pool.stats
    assert executor.options(run_timeout=40).submit(echo, 2).result(PATIENCE) == 2
    assert stats().boots_attempted == 1
    assert executor.options(run_timeout=60).submit(echo, 3).result(PATIENCE) == 3
    assert stats().boots_attempted == 2
    # No runner ever has the time for this one.
    assert executor.options(run_timeout=1000).submit(echo, 4).result(PATIENCE) == 4
    assert stats().boots_attempted == 2


def test_a_replacement_is_up_when_the_drain_begins(
    make_pool: MakePool, clock: VirtualClock, mailbox: Mailbox, gate: Gate
) -> None:
    """The pool has seen that a boot takes 20 s. The drain begins 30 s before the end."""
    node_is_there = threading.Event()
    backend = LimitedBackend(clock, runners=[FakeRunner(hold=node_is_there)])
    events = Events()
    pool = make_pool(backend=backend, max=3, max_concurrency=1, idle_shutdown_after=None, on_event=events)
    first = pool.submit(echo, 1)
    assert backend.asked.acquire(timeout=PATIENCE)
    clock.advance(20)
    node_is_there.set()
    assert first.result(PATIENCE) == 1
    clock.advance(45)
    running = pool.submit(hold, mailbox.path, gate.path, "done")
    mailbox.read()
    clock.advance(4.9)
    assert pool.stats().boots_attempted == 1
    clock.advance(0.1)
    assert pool.stats().boots_attempted == 2
    assert [events.wait("up")["runner_id"] for _ in range(2)] == [1, 2]
    gate.open()
    assert running.result(PATIENCE) == "done"
    clock.advance(20)
    assert (pool.stats().runners_up, pool.stats().boots_attempted) == (1, 2), "the first one is gone"
    assert pool.submit(echo, 2).result(PATIENCE) == 2
    assert pool.stats().boots_attempted == 2
