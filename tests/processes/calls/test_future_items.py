"""Futures as items of maps and as arguments of streams: each item waits for its own futures, without a slot."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures import Future as BaseFuture
from itertools import count
from typing import Any

import pytest

from dragonfly_executor import CallSerializationError, DragonflyExecutor, RunnerLostError
from tests.engine.conftest import MakePool
from tests.processes.conftest import Make
from tests.support.helpers import PATIENCE, Gate, Mailbox, becomes_true, error_of
from tests.support.payloads import die_by, echo, hold


def add(*values: int) -> int:
    return sum(values)


def fail_with(text: str) -> None:
    raise ValueError(text)


def count_to(values: list[int], repeat: int = 1) -> Iterator[int]:
    yield from values * repeat


async def count_slowly(value: int) -> Any:
    yield value
    yield value + 1


class TwoPartError(Exception):
    """Cannot be copied: `copy` calls the class with one argument."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


CHUNKS = [1, 3, "auto"]


@pytest.mark.parametrize("chunksize", CHUNKS)
def test_items_get_the_values_of_the_futures_in_them(make: Make, chunksize: Any) -> None:
    ex = make(2)
    one, two = ex.submit(echo, 1), ex.submit(echo, 2)
    how: dict[str, Any] = {"chunksize": chunksize}
    assert list(ex.map(echo, [one, 5, [two, {"x": one}], (two,), 6], **how)) == [1, 5, [2, {"x": 1}], (2,), 6]
    assert list(ex.map(add, [one, 10, two], [3, two, one], **how)) == [4, 12, 3]
    # In what the function has captured, and behind other options.
    assert list(ex.map(lambda value: (value, one), range(4), **how)) == [(n, 1) for n in range(4)]
    assert sorted(ex.map(echo, [one, two, 3, 4], ordered=False, **how)) == [1, 2, 3, 4]
    assert list(ex.map(echo, [one, two, 3, 4], return_exceptions=True, **how)) == [1, 2, 3, 4]
    assert list(ex.options(seed=1).map(echo, [one, two], **how)) == [1, 2]
    # From a generator, whose items are taken in a window.
    numbers = (ex.submit(echo, number) for number in range(20))
    assert list(ex.map(echo, numbers, buffersize=4, **how)) == list(range(20))


@pytest.mark.parametrize("chunksize", CHUNKS)
def test_an_error_of_a_future_names_its_item_alone(make: Make, chunksize: Any) -> None:
    ex = make(2)
    bad, uncopied = ex.submit(fail_with, "no"), BaseFuture[int]()
    uncopied.set_exception(TwoPartError("a", "b"))
    results = ex.map(echo, [0, ex.submit(echo, 1), bad, 3], chunksize=chunksize)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="no") as raised:
        next(results)
    assert raised.value.__notes__ == ["raised for item 2 of the map (the first is item 0)"]
    assert raised.value.__cause__ is error_of(bad).__cause__
    assert not hasattr(error_of(bad), "__notes__"), "the future keeps its own error"
    items = [bad, 1, bad, uncopied, ex.submit(die_by, 9), 5]
    found = list(ex.map(echo, items, chunksize=chunksize, return_exceptions=True))
    assert [type(each) for each in found] == [ValueError, int, ValueError, TwoPartError, RunnerLostError, int]
    assert [found[place].__notes__[-1][:17] for place in (0, 2, 3, 4)] == [
        f"raised for item {place}" for place in (0, 2, 3, 4)
    ]


@pytest.mark.parametrize("chunksize", CHUNKS)
def test_an_item_waits_for_its_own_futures_without_a_slot(make: Make, chunksize: Any) -> None:
    ex = make(1)
    theirs: list[BaseFuture[int]] = [BaseFuture() for _ in range(3)]
    results = ex.map(echo, [1, theirs[0], 2, theirs[1], theirs[2], 3], chunksize=chunksize, ordered=False)
    assert sorted(next(results) for _ in range(3)) == [1, 2, 3]
    assert ex.pool.stats().calls_delayed == 3
    theirs[1].set_result(11)
    assert next(results) == 11
    theirs[0].cancel()
    with pytest.raises(CancelledError) as raised:
        next(results)
    assert raised.value.__notes__ == ["raised for item 1 of the map (the first is item 0)"]
    # The map has ended, and its calls with it.
    assert becomes_true(ex.pool, lambda: ex.pool.stats().calls_delayed == 0)
    theirs[2].set_result(1)
    assert ex.submit(echo, 4).result(PATIENCE) == 4


def test_ends_of_a_map_that_waits(make: Make) -> None:
    theirs: BaseFuture[int] = BaseFuture()
    ex = make(1)
    with pytest.raises(TimeoutError):
        list(ex.map(echo, [theirs], timeout=0.05))
    closed = ex.options(cancel_running=False).map(echo, [theirs, theirs])
    closed.close()  # type: ignore[attr-defined]
    assert becomes_true(ex.pool, lambda: ex.pool.stats().calls_delayed == 0)
    limited = ex.options(timeout=0.05).map(echo, [theirs])
    with pytest.raises(TimeoutError, match="timeout"):
        next(limited)
    waits = ex.map(echo, [theirs])
    ex.shutdown(cancel_futures=True)
    with pytest.raises(CancelledError):
        next(waits)
    killed = make(1)
    waits = killed.map(echo, [theirs])
    killed.kill_workers()
    with pytest.raises(CancelledError):
        next(waits)
    theirs.set_result(1)


def test_shutdown_waits_for_the_items(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(1)
    first = ex.submit(hold, mailbox.path, gate.path, 1)
    mailbox.read()
    results = ex.map(add, [first, 5], [1, first])
    ex.shutdown(wait=False)
    gate.open()
    assert list(results) == [2, 6]


def test_an_item_that_cannot_be_sent_fails_beside_those_that_wait(make: Make, make_pool: MakePool) -> None:
    ex = make(1)
    one = ex.submit(echo, 1)
    items = [one, 2, threading.Lock(), [one, threading.Lock()], one]
    for chunksize in (1, 2):
        found = list(ex.map(echo, items, chunksize=chunksize, return_exceptions=True))
        assert [type(each) for each in found] == [int, int, CallSerializationError, CallSerializationError, int]
    # With a `Pool`, an item that cannot be pickled is an error of the map itself.
    pool = make_pool()
    with pytest.raises(CallSerializationError):
        pool.map(echo, [one, threading.Lock()])
    assert list(pool.map(echo, [one, 2])) == [1, 2]
    unpicklable: BaseFuture[Any] = BaseFuture()
    unpicklable.set_result(threading.Lock())
    with pytest.raises(CallSerializationError):
        next(ex.map(echo, [unpicklable]))


def test_thousands_of_items_wait_for_one_future_and_for_many(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(2)
    first = ex.submit(hold, mailbox.path, gate.path, 1)
    mailbox.read()
    sums = ex.map(add, [first] * 1000, range(1000), chunksize=100)
    gate.open()
    assert list(sums) == [number + 1 for number in range(1000)]
    values: list[Any] = [ex.submit(echo, number) for number in range(1000)]
    for _ in range(3):
        values = [ex.submit(echo, value) for value in values]
    assert list(ex.map(add, values, count(1))) == [2 * number + 1 for number in range(1000)]


def test_amap(make: Make) -> None:
    ex = make(2)
    theirs: BaseFuture[int] = BaseFuture()

    async def items() -> Any:
        for number in range(3):
            yield ex.submit(echo, number)

    async def main() -> None:
        one = ex.submit(echo, 1)
        assert [value async for value in ex.amap(add, [one, 5], [2, one])] == [3, 6]
        assert [value async for value in ex.amap(echo, items())] == [0, 1, 2]
        with pytest.raises(ValueError, match="no") as raised:
            async for _ in ex.amap(echo, [one, ex.submit(fail_with, "no")]):
                pass
        assert raised.value.__notes__ == ["raised for item 1 of the map (the first is item 0)"]
        waits = ex.amap(echo, [theirs])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(waits), 0.05)

    asyncio.run(main())
    assert becomes_true(ex.pool, lambda: ex.pool.stats().calls_delayed == 0)
    theirs.set_result(1)


# -- streams -----------------------------------------------------------------------------------------------------------


def test_a_stream_gets_the_values_of_its_futures(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(1)
    one = ex.submit(echo, 1)
    assert list(ex.stream(count_to, [one, 2], repeat=ex.submit(echo, 2))) == [1, 2, 1, 2]
    assert list(ex.stream(count_slowly, one)) == [1, 2]
    first = ex.submit(hold, mailbox.path, gate.path, 3)
    mailbox.read()
    waits = ex.options(retries=1).stream(count_to, [first])
    assert ex.pool.stats().calls_delayed == 1
    gate.open()

    async def main() -> list[int]:
        return [item async for item in waits]

    assert asyncio.run(main()) == [3]


def _closed(stream: Any) -> None:
    stream.close()


@pytest.mark.parametrize("end", [_closed, None])
def test_ends_of_a_stream_that_waits(make: Make, end: Callable[[Any], None] | None) -> None:
    ex: DragonflyExecutor = make(1)
    theirs: BaseFuture[int] = BaseFuture()
    stream = ex.stream(count_to, [theirs])
    if end is None:
        del stream  # dropped
    else:
        end(stream)
        assert list(stream) == []
    assert becomes_true(ex.pool, lambda: ex.pool.stats().calls_delayed == 0)
    bad = ex.submit(fail_with, "no")
    with pytest.raises(ValueError, match="no") as raised:
        next(ex.stream(count_to, [bad]))
    assert raised.value is error_of(bad)
    with pytest.raises(CallSerializationError):
        ex.stream(count_to, [threading.Lock()])
    late = ex.stream(count_to, [theirs])
    ex.shutdown(cancel_futures=True)
    with pytest.raises(CancelledError):
        next(late)
    theirs.set_result(1)
