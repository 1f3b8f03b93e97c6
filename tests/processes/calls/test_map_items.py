"""`map`: how items travel in chunks, and what calls of a map share with calls that have futures."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import Pool
from dragonfly_executor.errors import CallSerializationError, FrameTooLargeError, PoolBrokenError
from tests.processes.conftest import Make
from tests.support import payloads
from tests.support.helpers import SOON, Gate, Mailbox, values

numpy = pytest.importorskip("numpy")
both = pytest.mark.parametrize("chunksize", [1, 4])


def triple(a: Any, b: Any, c: Any) -> list[Any]:
    return [a, b, c]


def stop_at(n: int, end: int) -> int:
    if n == end:
        raise StopIteration("mine")
    return n


def plus(a: int, b: int) -> int:
    return a + b


def type_name(value: Any) -> str:
    return type(value).__name__


class Value:
    """A value that can be watched."""


def watched(_: int) -> Value:
    return Value()


def numbers(count: int) -> Iterator[int]:
    yield from range(count)


@both
@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 100])
def test_any_mix_of_iterables(count: int, chunksize: int, make: Make) -> None:
    ex = make(2)
    kinds: list[Any] = [
        range(count),
        [*range(count + 3)],
        (*range(count),),
        numbers(count + 1),
        "x" * count,
        dict.fromkeys(range(count)),
        numpy.arange(count),
    ]
    assert list(ex.map(payloads.echo, kinds[0], chunksize=chunksize)) == list(range(count))
    for one in kinds[1:]:
        if not isinstance(one, Iterator):
            expected = [list(items) for items in zip(range(count), one, (5,) * count)]  # noqa: B905
            assert list(ex.map(triple, range(count), one, (5,) * count, chunksize=chunksize)) == expected
    assert list(ex.map(plus, range(count), numbers(count + 9), chunksize=chunksize)) == list(range(0, 2 * count, 2))


def test_an_iterator_is_taken_no_farther_than_the_builtin_map_takes_it(make: Make) -> None:
    """The shorter one ends the map: of the longer one an item at the most is lost."""
    longer = iter(range(20))
    assert list(make(1).map(plus, longer, [1] * 6, chunksize=4)) == [1, 2, 3, 4, 5, 6]
    assert next(longer) == 7


@both
def test_a_stop_iteration_of_the_function_does_not_end_the_map(chunksize: int, make: Make) -> None:
    """The builtin map would end quietly, and three results would be lost."""
    results = make(1).map(stop_at, range(7), [4] * 7, chunksize=chunksize)
    with pytest.raises(RuntimeError) as caught:
        list(results)
    assert isinstance(caught.value.__cause__, StopIteration)
    assert caught.value.__cause__.value == "mine"
    assert caught.value.__cause__.__notes__[0].startswith("raised for item 4 of the map")


def test_the_items_of_an_array_are_those_of_its_iterator(make: Make) -> None:
    ex = make(2)
    array = numpy.arange(12.0)
    assert list(ex.map(type_name, array, chunksize=5)) == [type(one).__name__ for one in array]
    rows = list(ex.map(numpy.negative, array.reshape(6, 2), chunksize=4))
    assert numpy.array_equal(rows, -array.reshape(6, 2))
    with pytest.raises(TypeError):
        ex.map(payloads.echo, numpy.array(3), chunksize=4)


def test_the_rows_of_a_large_array(make: Make) -> None:
    """Each chunk is one buffer, and each row is the call's own."""
    array = numpy.arange(400_000).reshape(400, 1000)
    results = make(2).map(add_in_place, array, chunksize=100)
    array[:] = 0  # it was a snapshot
    assert [int(row[3]) for row in results] == [n * 1000 + 4 for n in range(400)]


def add_in_place(row: Any) -> Any:
    row += 1
    return row


def test_a_list_that_grows_meanwhile(make: Make) -> None:
    """As an iterator of the list sees it."""
    items = [0, 1, 2, 3]
    results = make(1).map(payloads.echo, items, chunksize=2, buffersize=2)
    assert next(results) == 0
    items.append(4)
    assert list(results) == [1, 2, 3, 4]


@both
def test_a_value_that_was_taken_is_not_kept(chunksize: int, make: Make) -> None:
    results = make(1).map(watched, range(6), chunksize=chunksize)
    for _ in range(5):
        value = weakref.ref(next(results))
        assert value() is None
    gc.collect()
    assert isinstance(next(results), Value)


@both
def test_a_shutdown_that_cancels_is_told_at_its_place(chunksize: int, make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(1)
    results = ex.map(payloads.hold, [mailbox.path] * 200, [gate.path] * 200, range(200), chunksize=chunksize)
    mailbox.read()
    gate.open(200)
    ex.shutdown(wait=False, cancel_futures=True)
    assert next(results) == 0
    with pytest.raises(CancelledError):
        list(results)


def test_a_map_without_cancel_running_lets_its_running_call_end(
    make: Make, mailbox: Mailbox, gate: Gate, log: Path
) -> None:
    ex = make(1)
    results = ex.options(cancel_running=False).map(
        hold_and_log, [mailbox.path] * 500, [gate.path] * 500, [str(log)] * 500
    )
    mailbox.read()
    results.close()  # type: ignore[attr-defined]
    gate.open(500)
    ex.shutdown()
    assert 1 <= len(log.read_text().splitlines()) < 100


def hold_and_log(mailbox: str, gate: str, log: str) -> None:
    payloads.hold(mailbox, gate)
    payloads.log(log, "ended")


def fail_to_start() -> None:
    raise ValueError("no start")


@both
def test_a_broken_pool_is_told_at_its_place(chunksize: int, make: Make) -> None:
    results = make(1, initializer=fail_to_start).map(payloads.echo, range(10), chunksize=chunksize)
    with pytest.raises(PoolBrokenError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def raise_once(path: str, n: int) -> int:
    if n == 2:
        with open(path, "a", encoding="ascii") as file:
            file.write("x")
        if Path(path).stat().st_size == 1:
            raise KeyError(n)
    return n


def test_the_calls_of_a_map_are_retried(make: Make, log: Path) -> None:
    view = make(2).options(retries=2, retry_on=(KeyError,))
    assert list(view.map(raise_once, [str(log)] * 5, range(5))) == list(range(5))
    assert log.read_text() == "xx"


def test_a_pool_raises_at_once_what_cannot_travel_and_an_executor_in_its_turn(make: Make) -> None:
    with Pool("plain", min=0, max=1, max_concurrency=1, max_payload=10_000) as pool:
        with pytest.raises(CallSerializationError):
            pool.map(payloads.echo, [1, threading.Lock()])
        with pytest.raises(FrameTooLargeError):
            pool.map(payloads.echo, [1, bytes(20_000)])
        assert list(pool.map(payloads.echo, range(3))) == [0, 1, 2]
    results = make(1, max_payload=10_000).map(payloads.echo, [1, bytes(20_000), 3])
    assert next(results) == 1
    with pytest.raises(FrameTooLargeError) as caught:
        next(results)
    assert caught.value.__notes__ == ["raised for item 1 of the map (the first is item 0)"]


@both
@pytest.mark.parametrize("output", ["capture", "drop", "tag"])
def test_maps_in_pools_that_handle_output(output: str, chunksize: int, make: Make) -> None:
    ex = make(2, output=output)
    assert list(ex.map(print_and_return, range(20), chunksize=chunksize)) == list(range(20))
    assert values([ex.submit(print_and_return, 5)]) == [5]


def print_and_return(n: int) -> int:
    print(n)
    return n


def test_the_calls_of_a_map_are_counted(make: Make) -> None:
    ex = make(2)
    list(ex.map(payloads.echo, range(30)))
    list(ex.map(payloads.echo, range(30), chunksize=10))
    stats = ex.pool.stats()
    assert (stats.calls_done, stats.calls_queued, stats.calls_running) == (33, 0, 0)


def test_many_threads_map_at_once(make: Make) -> None:
    ex = make(2)

    def run(start: int) -> None:
        items = range(start, start + 500)
        for chunksize in (1, 7):
            assert list(ex.map(payloads.echo, items, chunksize=chunksize)) == list(items)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(run, range(8)))
    assert ex.submit(payloads.echo, 1).result(SOON) == 1
