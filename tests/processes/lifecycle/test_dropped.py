"""Executors that nobody shuts down, and nobody refers to any more."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from dragonfly_executor import DragonflyExecutor, Pool, call
from dragonfly_executor.api.pool import registry
from dragonfly_executor.testing import FakeBackend
from tests.support import payloads
from tests.support.census import Census
from tests.support.helpers import PATIENCE, Gate, Mailbox, values, watching


@pytest.fixture
def eager_gc() -> Iterator[None]:
    """Garbage is collected all the time, in whatever thread and in the middle of whatever it does."""
    before = gc.get_threshold()
    gc.set_threshold(2, 2, 2)
    yield
    gc.set_threshold(*before)


@pytest.mark.slow
def test_hundreds_of_dropped_executors_leave_nothing(census: Census) -> None:
    """Checklist 68: the census around this test counts threads, descriptors and processes."""
    started = {thread.name for thread in threading.enumerate()}
    futures = []
    for number in range(500):
        executor = DragonflyExecutor(1)
        if number % 10 == 0:
            futures.append(executor.submit(payloads.echo, number))
        if number % 25 == 0:
            # Not the last reference either: a cycle that the collector has to find.
            executor.itself = executor  # type: ignore[attr-defined]
        if number % 50 == 0:
            gc.collect()
    del executor
    assert values(futures) == list(range(0, 500, 10))
    gc.collect()
    for thread in threading.enumerate():
        if thread.name not in started:
            thread.join(PATIENCE)
            assert not thread.is_alive(), thread.name


def test_a_dropped_executor_is_gone_at_once() -> None:
    """Checklist 68: nothing that goes on, its threads least of all, refers to it."""
    executor = DragonflyExecutor(1)
    executor.submit(payloads.nothing).result(PATIENCE)
    references = weakref.ref(executor), weakref.ref(executor.pool)
    del executor
    assert [reference() for reference in references] == [None, None]


def test_calls_of_a_dropped_executor_finish(mailbox: Mailbox, gate: Gate) -> None:
    """Checklist 68."""
    executor = DragonflyExecutor(2)
    futures = [executor.submit(payloads.hold, mailbox.path, gate.path, number) for number in range(5)]
    with watching(*mailbox.numbers(2)) as watches:
        del executor
        gc.collect()
        gate.open(5)
        assert values(futures) == list(range(5))
        assert all(watch.ended() for watch in watches)


def test_a_dropped_map_finishes_what_is_taken() -> None:
    """Checklist 68: the iterator is all that is left."""
    results = DragonflyExecutor(2).map(payloads.echo, range(50))
    gc.collect()
    assert list(results) == list(range(50))


def test_a_named_pool_lives_until_it_is_shut_down() -> None:
    """A program that makes a pool and goes on with `call` alone holds no reference to it."""
    Pool("dropped", min=0, max=1, max_concurrency=1)
    gc.collect()
    agent = call("dropped", payloads.agent_pid)
    with watching(agent) as (watch,):
        gc.collect()
        assert call("dropped", payloads.agent_pid) == agent
        registry.find("dropped").shutdown()
        assert watch.ended()
    gc.collect()
    with pytest.raises(KeyError, match="no pool is named 'dropped'"):
        call("dropped", int)


def test_a_named_pool_that_is_shut_down_and_dropped_is_collected() -> None:
    for end in ("shutdown", "kill", "leave"):
        pool = Pool("collected", min=0, max=1, max_concurrency=1)
        assert pool.call(payloads.echo, end) == end
        if end == "leave":
            pool.leave(interrupted=False)
        else:
            getattr(pool, end)()
        pool.join()
        gone = weakref.ref(pool)
        del pool
        gc.collect()
        assert gone() is None


def test_a_pool_whose_start_fails_leaves_its_name_free(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_engine: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as broken:
        broken.setattr("dragonfly_executor.engine.engine.Engine.start", fail)
        with pytest.raises(RuntimeError, match="new thread"):
            Pool("unlucky", min=1, max=1)
    with Pool("unlucky", min=0, max=1) as pool:
        assert registry.find("unlucky") is pool


def test_a_garbage_collection_anywhere_stops_pools_and_deadlocks_nobody(eager_gc: None) -> None:
    """Checklist 68: pools that end in the middle of another pool's submit, in any of four threads."""

    def make_and_drop() -> None:
        for number in range(30):
            executor = DragonflyExecutor(backend=FakeBackend())
            executor.itself = executor  # type: ignore[attr-defined]
            assert executor.submit(payloads.echo, number).result(PATIENCE) == number

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: make_and_drop(), range(4)))


def test_a_future_outlives_its_executor_and_its_threads() -> None:
    """Checklist 68: what came back is opened when somebody asks."""
    future = DragonflyExecutor(1).submit(payloads.echo, ["late"])
    assert future.exception(PATIENCE) is None
    gc.collect()
    assert future.result() == ["late"]
    assert future.result() is future.result()
