"""Submits with `max_queued`: so many calls wait at most, and whoever submits more waits or gets an error."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest

from dragonfly_executor import CallSerializationError, DragonflyExecutor, QueueFullError
from dragonfly_executor.testing import FakeBackend, FakeRunner
from tests.engine.conftest import MakePool
from tests.processes.conftest import Make
from tests.support.helpers import PATIENCE, CountedNumbers, Gate, Mailbox, becomes_true, values
from tests.support.payloads import echo, hold


def in_line(executor: DragonflyExecutor) -> int:
    """How many threads and tasks wait for room."""
    bound = executor.pool._engine.core_observers.bound
    return 0 if bound is None else sum(map(len, bound._waiters.values()))


def fill(executor: DragonflyExecutor, mailbox: Mailbox, gate: Gate, at_most: int) -> list[Any]:
    """Have a call run in the only slot, and submit as many as may wait."""
    futures: list[Any] = [executor.submit(hold, mailbox.path, gate.path)]
    mailbox.read()
    view = executor.options(max_queued=at_most, when_full="raise")
    # One goes to the runner ahead, and counts as long as the engine has not sent it.
    while executor.pool.stats().calls_queued < at_most:
        with contextlib.suppress(QueueFullError):
            futures.append(view.submit(echo, 1))
    with pytest.raises(QueueFullError, match=rf"max_queued is {at_most}.*when_full='wait'"):
        view.submit(echo, 1)
    # That one may have come back by now, because it was stuck behind the first one.
    assert executor.pool.stats().calls_queued - at_most in (0, 1)
    return futures


@contextlib.contextmanager
def waiting(executor: DragonflyExecutor, view: Any, count: int = 1) -> Iterator[list[Any]]:
    """Have threads wait in a submit; what each of them gets is in the list once it has ended."""
    got: list[Any] = []

    def submit() -> None:
        try:
            got.append(view.submit(echo, 2))
        except BaseException as error:
            got.append(error)

    threads = [threading.Thread(target=submit) for _ in range(count)]
    for thread in threads:
        thread.start()
    assert becomes_true(executor.pool, lambda: in_line(executor) == count)
    yield got
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_a_submit_waits_until_there_is_room(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(1)
    futures = fill(ex, mailbox, gate, 2)
    with waiting(ex, ex.options(max_queued=2), 3) as got:
        assert got == []
        with pytest.raises(QueueFullError):
            ex.options(max_queued=1, when_full="raise").submit(echo, 1)
        larger = ex.options(max_queued=4).submit(echo, 3)
        gate.open()
    assert values(futures[1:]) == [1] * (len(futures) - 1)
    assert values(got) == [2] * 3
    assert larger.result(PATIENCE) == 3
    assert in_line(ex) == 0


def submit_in_threads(submit: Callable[[int], None], count: int = 6) -> None:
    threads = [threading.Thread(target=submit, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_so_many_calls_wait_and_never_one_more(make_pool: MakePool) -> None:
    pool = make_pool(backend=FakeBackend(FakeRunner(hangs=True)), max_queued=7, when_full="raise")
    accepted: list[Any] = []

    def submit(_: int) -> None:
        for _ in range(200):
            with contextlib.suppress(QueueFullError):
                accepted.append(pool.submit(echo, 1))

    submit_in_threads(submit)
    assert len(accepted) == 7
    assert pool.stats().calls_queued == 7
    for future in accepted[:2]:
        future.cancel()
    assert becomes_true(pool, lambda: pool.stats().calls_queued == 5)
    submit_in_threads(submit)
    assert len(accepted) == 9


def test_many_threads_wait_for_their_turn(make: Make) -> None:
    ex = make(2)
    view = ex.options(max_queued=3)
    results: list[int] = []

    def submit(number: int) -> None:
        results.extend(values([view.submit(echo, 100 * number + each) for each in range(100)]))

    submit_in_threads(submit)
    assert sorted(results) == list(range(600))
    assert in_line(ex) == 0


@pytest.mark.parametrize("end", ["shutdown", "kill"])
def test_the_end_of_the_pool_wakes_who_waits(make: Make, mailbox: Mailbox, gate: Gate, end: str) -> None:
    ex = make(1)
    futures = fill(ex, mailbox, gate, 1)
    with waiting(ex, ex.options(max_queued=1), 2) as got:
        if end == "kill":
            ex.kill_workers()
        else:
            ex.shutdown(wait=False)
    assert [type(error) for error in got] == [RuntimeError] * 2
    assert "after shutdown" in str(got[0])
    gate.open()
    if end == "shutdown":
        assert values(futures[1:]) == [1] * (len(futures) - 1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        ex.options(max_queued=1).submit(echo, 1)


def test_ctrl_c_ends_the_wait_and_another_thread_gets_the_room(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(1)
    futures, view = fill(ex, mailbox, gate, 1), ex.options(max_queued=1)
    main = threading.main_thread().ident or 0
    is_interrupted = threading.Event()

    def raise_once(_number: int, _frame: object) -> None:
        if not is_interrupted.is_set():
            is_interrupted.set()
            raise KeyboardInterrupt

    def interrupt() -> None:
        becomes_true(ex.pool, lambda: in_line(ex) == 2)
        # CPython does not notice a signal that comes just before it blocks, until the next one comes.
        while not is_interrupted.is_set():
            signal.pthread_kill(main, signal.SIGINT)
            is_interrupted.wait(0.1)

    before = signal.signal(signal.SIGINT, raise_once)
    try:
        with waiting(ex, view) as got:
            thread = threading.Thread(target=interrupt)
            thread.start()
            with pytest.raises(KeyboardInterrupt):
                view.submit(echo, 3)
            thread.join(PATIENCE)
            assert in_line(ex) == 1
            gate.open()
    finally:
        signal.signal(signal.SIGINT, before)
    assert values([*futures[1:], *got])[-1] == 2
    assert view.submit(echo, 4).result(PATIENCE) == 4


def test_tasks_wait_for_room_and_their_loop_goes_on(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(1)
    fill(ex, mailbox, gate, 2)
    view = ex.options(max_queued=2)

    async def until(count: int) -> None:
        assert await asyncio.to_thread(becomes_true, ex.pool, lambda: in_line(ex) == count)

    async def main() -> list[int]:
        tasks = [asyncio.create_task(view.acall(echo, number)) for number in range(50)]
        await until(50)
        # These give their turn back: one that waits, and one that the engine may have woken.
        tasks[0].cancel()
        await until(49)
        gate.open()
        tasks[1].cancel()
        with pytest.raises(CallSerializationError):
            await view.acall(echo, threading.Lock())
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(done[0], asyncio.CancelledError)
        return [value for value in done[2:] if isinstance(value, int)]

    assert asyncio.run(main()) == list(range(2, 50))
    assert in_line(ex) == 0

    async def shut_down() -> None:
        ex.submit(hold, mailbox.path, gate.path)
        while ex.pool.stats().calls_queued < 2:
            ex.submit(echo, 1)
        task = asyncio.create_task(view.acall(echo, 1))
        await until(1)
        ex.shutdown(wait=False)
        with pytest.raises(RuntimeError, match="after shutdown"):
            await task
        gate.open()

    asyncio.run(shut_down())


def test_a_map_is_as_far_ahead_as_calls_may_wait(make: Make) -> None:
    numbers, view = CountedNumbers(), make(1).options(max_queued=4)
    results = view.map(echo, numbers)
    assert list(islice(results, 20)) == list(range(20))
    assert numbers.taken <= 24
    results.close()  # type: ignore[attr-defined]
