"""Placed workers, child calls and multiprocessing's objects on the runners of a `FakeBackend`."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dragonfly_executor import (
    CallTimeoutError,
    MultiprocessingObjectError,
    Parent,
    Remote,
    RunnerLostError,
    WorkerLostError,
)
from dragonfly_executor.testing import FakeBackend
from tests.engine.conftest import MakePool
from tests.support.helpers import PATIENCE, becomes_true, error_of


class Model:
    """A worker with methods of each kind."""

    def __init__(self, start: int) -> None:
        if start < 0:
            raise ValueError("negative")
        self.count = start

    def add(self, more: int) -> int:
        self.count += more
        return self.count

    async def add_later(self, more: int) -> int:
        await asyncio.sleep(0)
        return self.add(more)

    def fail(self) -> None:
        raise KeyError("no")

    def part(self) -> Any:
        return {"part": Remote(self)}

    def echo(self, value: Any) -> Any:
        return value

    def hold(self, started: Any, gate: Any) -> bool:
        started.set()
        return bool(gate.wait(PATIENCE))


def test_a_worker_of_a_fake_runner_is_a_worker(make_pool: MakePool) -> None:
    pool = make_pool(backend=FakeBackend(slots=2))
    with pool.place(Model, 5) as worker:
        assert [each.result(PATIENCE) for each in (worker.add(1), worker.add_later(2), worker.add(3))] == [6, 8, 11]
        assert isinstance(error_of(worker.fail()), KeyError)
        data = bytes(range(256)) * 2000
        assert worker.echo(data).result(PATIENCE) == data
        handle = worker.part().result(PATIENCE)["part"]
        assert handle.add(1).result(PATIENCE) == 12
        assert worker.echo(handle).result(PATIENCE) is not handle
        assert pool.call(abs, -1) == 1  # in the other slot
        assert pool.stats().calls_sent == 1
        del handle
    assert worker.ended.result(PATIENCE) is None
    assert pool.stats().calls_sent == 0


def test_a_worker_that_cannot_be_made_and_one_that_is_killed(make_pool: MakePool) -> None:
    pool = make_pool(backend=FakeBackend())
    assert "negative" in str(error_of(pool.place(Model, -1).ended))
    worker = pool.place(Model, 0)
    started, gate = multiprocessing.Event(), multiprocessing.Event()
    held, waiting = worker.hold(started, gate), worker.add(1)
    assert started.wait(PATIENCE)
    worker.kill()
    assert isinstance(error_of(held), WorkerLostError)
    assert isinstance(error_of(waiting), WorkerLostError)
    assert isinstance(error_of(worker.ended), WorkerLostError)
    assert pool.call(abs, -2) == 2


def test_several_methods_at_once(make_pool: MakePool) -> None:
    pool = make_pool(backend=FakeBackend(), concurrency=2)
    with pool.place(Model, 0) as worker:
        started, gate = multiprocessing.Event(), multiprocessing.Event()
        held = worker.hold(started, gate)
        assert started.wait(PATIENCE)
        assert worker.add(1).result(PATIENCE) == 1
        gate.set()
        assert held.result(PATIENCE) is True


def test_a_worker_begins_again_when_its_fake_runner_is_lost(make_pool: MakePool) -> None:
    backend = FakeBackend()
    pool = make_pool(backend=backend, restart="on_failure")
    worker = pool.place(Model, 5)
    assert worker.add(1).result(PATIENCE) == 6
    backend.lose_runner()
    assert worker.add(1).result(PATIENCE) == 6
    worker.stop()
    assert len(backend.nodes) == 2


def test_what_is_not_fair_says_what_to_use(make_pool: MakePool) -> None:
    pool = make_pool(backend=FakeBackend())
    error = error_of(pool.place_process(["true"]).future)
    assert "use LocalBackend() in this test" in str(error)
    with pool.place(Model, 0) as worker, pool.share([1]) as shared:
        assert "use LocalBackend() in this test" in str(error_of(worker.echo(shared)))
        assert worker.add(1).result(PATIENCE) == 1


def fib(n: int) -> int:
    if n < 2:
        return n
    pool = Parent.pool()
    return sum(future.result() for future in [pool.submit(fib, n - 1), pool.submit(fib, n - 2)])


async def add_in_tasks(values: list[int]) -> int:
    return sum(await asyncio.gather(*[Parent.pool().acall(abs, value) for value in values]))


KEPT = multiprocessing.RawValue("i")
"""Keeps the block of memory that multiprocessing takes for the first value, and that the census would find."""
HERE: dict[str, threading.Event] = {}
"""Calls of fake runners see the globals of the test."""


@pytest.fixture
def held() -> Iterator[dict[str, threading.Event]]:
    """Events for `hold`."""
    HERE.update(started=threading.Event(), gate=threading.Event())
    yield HERE
    HERE["gate"].set()


def hold() -> bool:
    HERE["started"].set()
    return HERE["gate"].wait(PATIENCE)


def hold_child() -> bool:
    return Parent.pool().submit(hold).result()


def child_outcomes() -> list[str]:
    """Say how child calls end that fail, that time out, and that are cancelled."""
    pool = Parent.pool()
    found = [repr(pool.submit(int, "x").exception())]
    event = threading.Event()
    future = pool.submit(abs, -1)
    future.add_done_callback(lambda _: event.set())
    found += [str(event.wait(PATIENCE)), str(list(pool.map(abs, [-1, -2])))]
    return found


@pytest.mark.parametrize("slots", [1, 3])
def test_child_calls_of_fake_runners(make_pool: MakePool, slots: int) -> None:
    pool = make_pool(backend=FakeBackend(slots=slots))
    assert pool.call(fib, 6) == 8
    assert pool.call(add_in_tasks, [1, -2, 3]) == 6
    found = pool.call(child_outcomes)
    assert found[0].startswith("ValueError")
    assert found[1:] == ["True", "[1, 2]"]
    assert pool.call(abs, -1) == 1


def test_child_calls_end_with_their_call(make_pool: MakePool, held: dict[str, threading.Event]) -> None:
    backend = FakeBackend(slots=1)
    pool = make_pool(backend=backend)
    for how in ("cancel", "lose"):
        held["started"].clear()
        future = pool.submit(hold_child)
        assert held["started"].wait(PATIENCE)
        if how == "cancel":
            assert future.cancel()
        else:
            backend.lose_runner()
            assert isinstance(error_of(future), RunnerLostError)
        assert becomes_true(pool, lambda: pool.stats().calls_sent == 0)
        assert pool.call(fib, 3) == 2


def test_child_calls_have_time_limits(make_pool: MakePool, held: dict[str, threading.Event]) -> None:
    pool = make_pool(backend=FakeBackend(slots=1))
    assert pool.call(time_out_child) == "CallTimeoutError"


def time_out_child() -> str:
    try:
        Parent.pool().options(timeout=0.05).call(hold)
    except CallTimeoutError as error:
        return type(error).__name__
    except Exception as error:  # it says what went wrong
        return repr(error)
    return "no error"


def use_objects(lock: Any, items: Any, counter: Any) -> int:
    with lock, counter.get_lock():
        counter.value += 1
    items.put(counter.value)
    return int(counter.value)


def test_objects_of_multiprocessing_in_calls_of_fake_runners(make_pool: MakePool) -> None:
    pool = make_pool(backend=FakeBackend(slots=2))
    lock, items, counter = multiprocessing.Lock(), multiprocessing.SimpleQueue(), multiprocessing.Value("i", 1)
    assert pool.call(use_objects, lock, items, counter) == 2
    assert (items.get(), counter.value) == (2, 2)
    assert lock.acquire(False)
    future = pool.submit(use_objects, lock, items, counter)
    assert becomes_true(pool, lambda: future.running())
    assert future.cancel()
    lock.release()
    assert pool.call(use_objects, lock, items, counter) in (3, 4)
    items.close()


def test_an_initializer_gets_no_such_objects(make_pool: MakePool) -> None:
    pool = make_pool(backend=FakeBackend(), initializer=id, initargs=(multiprocessing.Lock(),))
    error = error_of(pool.submit(abs, 1))
    assert isinstance(error.__cause__, MultiprocessingObjectError) or "MultiprocessingObjectError" in str(error)
