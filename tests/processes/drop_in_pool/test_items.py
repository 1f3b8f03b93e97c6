"""`imap` and `imap_unordered`: items are read as values are taken."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import RunnerLostError
from dragonfly_executor.errors import CallSerializationError
from dragonfly_executor.multiprocessing import Pool
from tests.processes.drop_in_pool.conftest import MakePool
from tests.processes.drop_in_pool.test_methods import die_at_three, fail_from_three, fails_after, generated, square
from tests.support.helpers import PATIENCE, CountedNumbers, Gate, Mailbox, all_ended, watching
from tests.support.payloads import echo, hold_for_good, log_run, wait_at

ORDERED = [True, False]


def items(pool: Pool, ordered: bool, *arguments: Any, **options: Any) -> Any:
    return (pool.imap if ordered else pool.imap_unordered)(*arguments, **options)


def wait_if(gate: str | None) -> bool:
    if gate:
        wait_at(gate)
    return bool(gate)


@pytest.mark.parametrize("chunksize", [1, 7])
@pytest.mark.parametrize("ordered", ORDERED)
def test_all_values_come(pool: Pool, ordered: bool, chunksize: int) -> None:
    expected = [number**2 for number in range(2500)]
    for source in (range(2500), generated(2500)):
        got = list(items(pool, ordered, square, source, chunksize))
        assert (got if ordered else sorted(got)) == expected
    assert list(items(pool, ordered, square, [])) == []


def test_values_come_in_order_or_as_they_arrive(pool: Pool, gate: Gate) -> None:
    unordered = pool.imap_unordered(wait_if, [gate.path, None, None])
    assert [unordered.next(PATIENCE) for _ in range(2)] == [False, False]
    with pytest.raises(multiprocessing.TimeoutError):
        unordered.next(0)
    with pytest.raises(multiprocessing.TimeoutError):
        unordered.next(-1)
    gate.open()
    assert unordered.next(PATIENCE)
    ordered = pool.imap(wait_if, [gate.path, None])
    with pytest.raises(multiprocessing.TimeoutError):
        ordered.next(0.05)
    gate.open()
    assert list(ordered) == [True, False]
    for ended in (ordered, unordered):
        with pytest.raises(StopIteration):
            next(ended)


@pytest.mark.parametrize("ordered", ORDERED)
@pytest.mark.parametrize(
    ("options", "ahead"), [({}, 1024), ({"buffersize": 5}, 5), ({"chunksize": 3, "buffersize": 7}, 9)]
)
def test_items_are_read_only_so_far_ahead(pool: Pool, ordered: bool, options: dict[str, int], ahead: int) -> None:
    numbers = CountedNumbers()
    results = items(pool, ordered, echo, numbers, **options)
    for taken in range(1, 2000):
        next(results)
        assert numbers.taken <= taken + ahead + options.get("chunksize", 1)


@pytest.mark.parametrize("ordered", ORDERED)
def test_an_item_does_not_wait_for_the_next_one(pool: Pool, ordered: bool) -> None:
    """The iterable may be a terminal, or a socket."""
    go_on = threading.Event()

    def slowly() -> Iterator[int]:
        yield from range(5)
        assert go_on.wait(PATIENCE)
        yield 5

    results = items(pool, ordered, square, slowly())
    assert sorted(results.next(PATIENCE) for _ in range(5)) == [0, 1, 4, 9, 16]
    go_on.set()
    assert list(results) == [25]


@pytest.mark.parametrize("ordered", ORDERED)
def test_an_error_fails_its_call_alone(pool: Pool, ordered: bool) -> None:
    results = items(pool, ordered, fail_from_three, range(5))
    got: list[Any] = []
    while True:
        try:
            got.append(next(results))
        except StopIteration:
            break
        except LookupError as error:
            got.append(error.args[0])
            assert f"raised for item {error.args[0]} of the map" in error.__notes__[0]
    assert sorted(got) == [0, 1, 2, 3, 4]


def test_an_error_fails_its_chunk(pool: Pool) -> None:
    results = pool.imap(fail_from_three, [0, 1, 2, 3, 0, 1], 2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(LookupError):
        next(results)
    assert list(results) == [0, 1]


def test_a_killed_slot_and_an_argument_that_cannot_be_pickled(pool: Pool) -> None:
    results = pool.imap(die_at_three, [1, 3, threading.Lock(), 2])
    assert next(results) == 1
    with pytest.raises(RunnerLostError):
        next(results)
    with pytest.raises(CallSerializationError):
        next(results)
    assert list(results) == [2]


@pytest.mark.parametrize("ordered", ORDERED)
def test_an_error_of_the_iterable_comes_after_the_values_before_it(pool: Pool, ordered: bool) -> None:
    results = items(pool, ordered, square, fails_after(3))
    got = []
    with pytest.raises(LookupError, match="of the iterable") as info:
        got.extend(results)
    if ordered:
        got = [0, 1, 4]
    assert info.value.__cause__ is None
    assert len(got) <= 3


def test_an_iterable_may_even_exit(pool: Pool) -> None:
    def exits() -> Iterator[int]:
        yield 1
        sys.exit(3)

    results = pool.imap(square, exits())
    assert next(results) == 1
    with pytest.raises(SystemExit):
        next(results)
    assert list(results) == []
    with pytest.raises(TypeError, match="not iterable"):
        pool.imap(square, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="buffersize"):
        pool.imap(square, [], buffersize=0)


@pytest.mark.parametrize("chunksize", [1, 4])
@pytest.mark.parametrize("ordered", ORDERED)
def test_several_threads_take_each_value_once(pool: Pool, ordered: bool, chunksize: int) -> None:
    results = items(pool, ordered, square, range(1500), chunksize, buffersize=40)
    with ThreadPoolExecutor(4) as threads:
        parts = [future.result(PATIENCE) for future in [threads.submit(list, results) for _ in range(4)]]
    assert sorted(value for part in parts for value in part) == [number**2 for number in range(1500)]


@pytest.mark.parametrize("ordered", ORDERED)
def test_a_pipeline_on_one_pool(pool: Pool, ordered: bool) -> None:
    first = items(pool, ordered, square, range(500), buffersize=4)
    second = items(pool, ordered, str, first, buffersize=4)
    assert sorted(second, key=int) == [str(number**2) for number in range(500)]


# -- results that are not taken ----------------------------------------------------------------------------------------


def test_dropping_the_iterator_stops_the_calls(pool: Pool, mailbox: Mailbox) -> None:
    results = pool.imap_unordered(hold_for_good, [mailbox.path] * 3)
    with watching(*mailbox.numbers(2)) as slots:
        with pytest.raises(multiprocessing.TimeoutError):
            results.next(0)
        del results
        gc.collect()
        assert all_ended(slots)
    assert pool.apply(square, (3,)) == 9


@pytest.mark.parametrize("ordered", ORDERED)
def test_items_run_for_their_effects(make: MakePool, log: Path, ordered: bool) -> None:
    pool = make(2)
    items(pool, ordered, log_number, ((str(log), number) for number in range(1500)))
    gc.collect()
    pool.close()
    pool.join()
    assert len(log.read_text().splitlines()) == 1500


def log_number(item: tuple[str, int]) -> None:
    log_run(*item)


@pytest.mark.parametrize("ordered", ORDERED)
def test_values_may_be_taken_after_join(make: MakePool, ordered: bool) -> None:
    pool = make(2)
    results = items(pool, ordered, square, generated(1500), buffersize=10)
    assert next(results) in {0, 1, 4, 9, 16, 25, 36, 49, 64, 81}
    pool.close()
    pool.join()
    assert len(list(results)) == 1499


@pytest.mark.parametrize("ordered", ORDERED)
def test_terminate_ends_the_iterator(make: MakePool, mailbox: Mailbox, ordered: bool) -> None:
    pool = make(1)
    results = items(pool, ordered, hold_for_good, iter([mailbox.path] * 3))
    mailbox.read()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(next, results)
        pool.terminate()
        assert isinstance(waiting.exception(PATIENCE), CancelledError)
    for _ in range(2):
        with pytest.raises(CancelledError, match="the pool was terminated"):
            next(results)


def test_terminate_does_not_wait_for_an_iterable(make: MakePool) -> None:
    """multiprocessing waits without end."""
    pool = make(1)
    reading, writing = os.pipe()

    def lines() -> Iterator[int]:
        yield 2
        yield len(os.read(reading, 1))

    results = pool.imap(square, lines())
    assert next(results) == 4
    pool.terminate()
    os.write(writing, b"x")  # the thread that reads ends
    os.close(writing)
    with pytest.raises(CancelledError):
        next(results)
    os.close(reading)
