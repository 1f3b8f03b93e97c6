"""Submits with `max_queued`: so many calls wait at most, and whoever submits more waits or gets an error."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from dragonfly_executor import CallSerializationError, DragonflyExecutor, QueueFullError
from dragonfly_executor.core.machine import Machine
from dragonfly_executor.engine.queue_bound import QueueBound
from tests.processes.conftest import Make
from tests.support.helpers import PATIENCE, CountedNumbers, Gate, Mailbox, becomes_true, values
from tests.support.payloads import echo, hold


def in_line(executor: DragonflyExecutor) -> int:
    """How many threads and tasks wait for room."""
    bound = executor.pool._engine._bound
    return 0 if bound is None else sum(map(len, bound._waiters.values()))


def fill(executor: DragonflyExecutor, mailbox: Mailbox, gate: Gate, at_most: int) -> list[Any]:
    """Have a call run in the only slot, and submit as many as may wait."""
    futures: list[Any] = [executor.submit(hold, mailbox.path, gate.path)]
    mailbox.read()
    view = executor.options(max_queued=at_most, when_full="raise")
    with pytest.raises(QueueFullError, match=rf"max_queued is {at_most}.*when_full='wait'"):
        while len(futures) < 100:
            futures.append(view.submit(echo, 1))
    assert executor.pool.stats().calls_queued == at_most
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
        larger = ex.options(max_queued=3).submit(echo, 3)
        gate.open()
    assert values(futures[1:]) == [1] * (len(futures) - 1)
    assert values(got) == [2] * 3
    assert larger.result(PATIENCE) == 3
    assert in_line(ex) == 0


def test_so_many_calls_wait_and_never_one_more(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 0
    review = QueueBound.review

    def counting(self: QueueBound, machine: Machine, *, is_open: bool) -> None:
        nonlocal most
        most = max(most, machine.waiting)
        review(self, machine, is_open=is_open)

    monkeypatch.setattr(QueueBound, "review", counting)
    ex = make(2)
    view = ex.options(max_queued=3)
    results: list[int] = []

    def submit(first: int) -> None:
        futures = [view.submit(echo, first + number) for number in range(100)]
        results.extend(values(futures))

    threads = [threading.Thread(target=submit, args=(100 * number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(results) == list(range(600))
    assert 1 <= most <= 3


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

    def interrupt() -> None:
        becomes_true(ex.pool, lambda: in_line(ex) == 2)
        signal.pthread_kill(main, signal.SIGINT)

    with waiting(ex, view) as got:
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            view.submit(echo, 3)
        thread.join(PATIENCE)
        assert in_line(ex) == 1
        gate.open()
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
        for _ in range(3):
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
