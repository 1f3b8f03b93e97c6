"""The methods of a pool that return a list, a value or an `AsyncResult`."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import starmap
from pathlib import Path
from pickle import PicklingError
from typing import Any

import pytest

import dragonfly_executor
from dragonfly_executor import CallSerializationError, ResultSerializationError, RunnerLostError
from dragonfly_executor.errors import InitializerError
from dragonfly_executor.multiprocessing import AsyncResult, Pool, TimeoutError, cpu_count, get_context  # noqa: A004
from tests.processes.drop_in_pool.conftest import MakePool
from tests.support.helpers import PATIENCE, Gate, Mailbox, kill_and_wait
from tests.support.payloads import echo, hold, log_run, pid, wait_at

set_by_initializer = 0


def square(number: int) -> int:
    return number * number


def add(*numbers: int) -> int:
    return sum(numbers)


def fail_from_three(number: int) -> int:
    if number >= 3:
        raise LookupError(number)  # the line that a traceback shows
    return number


def log_and_fail(path: str, number: int) -> None:
    log_run(path, number)
    raise LookupError(number)


def die_once(mark: str) -> str:
    """Kill the slot in the first run, which makes the file `mark`."""
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def die_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def set_up(value: int) -> None:
    global set_by_initializer
    set_by_initializer = value


def what_was_set(_: object) -> int:
    return set_by_initializer


async def later(number: int) -> int:
    return number + 1


def generated(count: int) -> Iterator[int]:
    yield from range(count)


def fails_after(count: int) -> Iterator[int]:
    yield from range(count)
    raise LookupError("of the iterable")


class Counter:
    def __init__(self, start: int) -> None:
        self.start = start

    def count(self, number: int) -> int:
        return self.start + number


def test_apply(pool: Pool) -> None:
    assert pool.apply(square, (3,)) == 9
    assert pool.apply(int, ["21"], {"base": 3}) == 7
    assert pool.apply(square, kwds={"number": 4}) == 16
    assert pool.apply_async(int, ("21",), {"base": 3}).get(PATIENCE) == 7


@pytest.mark.parametrize("items", [list(range(10)), tuple(range(10)), range(100), {1: 2, 3: 4}, [], "text"])
def test_map_is_the_builtin_one(pool: Pool, items: Any) -> None:
    expected = list(map(echo, items))
    for chunksize in (None, 1, 3, 1000):
        assert pool.map(echo, items, chunksize) == expected
        assert pool.map_async(echo, iter(items), chunksize=chunksize).get(PATIENCE) == expected


def test_more_chunks_than_are_sent_ahead(pool: Pool) -> None:
    assert pool.map(square, range(3000), 1) == [number**2 for number in range(3000)]
    assert pool.map_async(square, generated(2500), 1).get(PATIENCE) == [number**2 for number in range(2500)]


def test_starmap_takes_any_number_of_arguments(pool: Pool) -> None:
    items: list[Any] = [(1, 2), (), [3], (4, 5, 6), range(4)]
    expected = list(starmap(add, items))
    for chunksize in (None, 1, 2):
        assert pool.starmap(add, items, chunksize) == expected
        assert pool.starmap_async(add, iter(items), chunksize).get(PATIENCE) == expected
    with pytest.raises(TypeError) as info:
        pool.starmap(add, [(1,), 2])  # type: ignore[list-item]
    assert "item 1 of the map (the first is item 0): 2" in info.value.__notes__[0]


def test_a_result_is_the_same_object_each_time(pool: Pool) -> None:
    result = pool.map_async(square, [1, 2])
    with ThreadPoolExecutor(4) as threads:
        got = [future.result() for future in [threads.submit(result.get, PATIENCE) for _ in range(8)]]
    assert all(value is got[0] for value in got)
    assert got[0] == [1, 4]


def test_a_slot_is_replaced_after_so_many_chunks(make: MakePool) -> None:
    """Without `chunksize` there are four chunks for each process, as in multiprocessing."""
    pids = make(1, maxtasksperchild=1).map(pid, range(8))
    assert len(set(pids)) == 4
    assert pids[0::2] == pids[1::2]


@pytest.mark.parametrize("method", ["map", "map_async", "starmap", "starmap_async", "imap", "imap_unordered"])
def test_sizes_that_are_none_are_refused(pool: Pool, method: str) -> None:
    for size, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError)):
        with pytest.raises(error):
            getattr(pool, method)(echo, [(1,)], size)


def test_the_first_error_comes_when_all_have_ended(pool: Pool, log: Path) -> None:
    with pytest.raises(LookupError) as info:
        pool.starmap(log_and_fail, [(str(log), number) for number in range(6)], 1)
    assert info.value.args == (0,)
    assert {line.split()[0] for line in log.read_text().splitlines()} == set("012345")
    with pytest.raises(LookupError) as info:
        pool.map(fail_from_three, range(6), 1)
    assert info.value.args == (3,)
    assert info.value.__notes__ == ["raised for item 3 of the map (the first is item 0): 3"]
    assert "raise LookupError(number)  # the line that a traceback shows" in str(info.value.__cause__)


def test_an_error_of_the_iterable_is_raised_as_it_is(pool: Pool) -> None:
    with pytest.raises(LookupError, match="of the iterable") as info:
        pool.map(echo, fails_after(3))
    assert info.value.__cause__ is None


def test_generator_functions_are_refused(pool: Pool) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: pool.map(generated, [1]),
        lambda: pool.imap(generated, [1]),
        lambda: pool.apply_async(generated, (1,)),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="generator function"):
            call()


def test_async_functions_run_to_their_end(pool: Pool) -> None:
    function: Any = later
    assert pool.apply(function, (3,)) == 4
    assert pool.map(function, range(5), 2) == list(pool.imap(function, range(5))) == [1, 2, 3, 4, 5]
    assert pool.starmap(function, [(1,), (2,)]) == [2, 3]


def test_an_argument_that_cannot_be_pickled_fails_its_own_call(pool: Pool) -> None:
    lock = threading.Lock()
    with pytest.raises(CallSerializationError):
        pool.map(echo, [1, lock, 2], 1)
    result = pool.apply_async(echo, (lock,))
    with pytest.raises(PicklingError):
        result.get(PATIENCE)
    assert result.ready()
    assert not result.successful()
    assert pool.map(square, [1, 2]) == [1, 4]


def test_a_result_that_cannot_be_pickled_fails_its_own_call(pool: Pool) -> None:
    with pytest.raises(ResultSerializationError):
        pool.apply(threading.Lock)
    assert pool.apply(square, (2,)) == 4


def test_a_killed_slot_fails_its_call_alone(pool: Pool, mailbox: Mailbox, gate: Gate) -> None:
    """multiprocessing waits for the result without end."""
    killed, other = (pool.apply_async(hold, (mailbox.path, gate.path, number)) for number in range(2))
    first = int(mailbox.read())
    mailbox.read()
    kill_and_wait(first)
    with pytest.raises(RunnerLostError) as info:
        (killed if not other.ready() and _fails(killed) else other).get(PATIENCE)
    assert info.value.signal == signal.SIGKILL
    assert isinstance(info.value, BrokenProcessPool)
    gate.open(2)
    assert pool.apply(square, (5,)) == 25


def _fails(result: AsyncResult[Any]) -> bool:
    """Whether this is the call whose slot was killed: it ends before the gate is opened."""
    result.wait(2.0)
    return result.ready()


def test_a_killed_slot_fails_its_map_and_its_chunk(pool: Pool) -> None:
    with pytest.raises(RunnerLostError) as info:
        pool.map(die_at_three, range(6), 2)
    assert info.value.__notes__ == ["raised for one of the items 2 to 3 of the map (the first is item 0)"]
    assert pool.map(die_at_three, range(3)) == [0, 1, 2]


def test_a_call_is_tried_again_if_asked(make: MakePool, tmp_path: Path) -> None:
    assert make(1, retries=1).apply(die_once, (str(tmp_path / "mark"),)) == "survived"


def test_an_initializer_prepares_each_slot(make: MakePool, gate: Gate, mailbox: Mailbox) -> None:
    pool = make(2, set_up, [7])
    assert set(pool.map(what_was_set, range(10))) == {7}


def test_an_initializer_that_raises_breaks_the_pool(make: MakePool) -> None:
    """multiprocessing starts processes without end."""
    pool = make(1, fail_from_three, (3,))
    with pytest.raises(InitializerError):
        pool.apply(echo, (1,))
    with pytest.raises(InitializerError):
        pool.map(echo, [1, 2])


def test_as_many_calls_run_at_once_as_there_are_processes(make: MakePool, mailbox: Mailbox, gate: Gate) -> None:
    pool = make(5)
    result = pool.starmap_async(hold, [(mailbox.path, gate.path, number) for number in range(5)], 1)
    assert len(set(mailbox.numbers(5))) == 5
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(0)
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(-1)
    result.wait(0.01)
    assert not result.ready()
    gate.open(5)
    assert result.get(PATIENCE) == list(range(5))
    assert result.successful()


def test_uses_of_a_thread_pool(pool: Pool) -> None:
    """Functions that cannot be pickled, and objects' methods."""
    factor = 3
    assert pool.map(lambda number: factor * number, range(4)) == [0, 3, 6, 9]
    assert pool.map(Counter(10).count, range(3)) == [10, 11, 12]
    assert pool.apply(lambda: lambda: factor)() == 3


@pytest.mark.parametrize("processes", [0, -1])
def test_a_number_of_processes_that_is_none(processes: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Pool(processes)


def test_arguments_are_refused_in_the_words_of_multiprocessing() -> None:
    for value in (0, -1, 0.5, "12"):
        with pytest.raises(ValueError, match="maxtasksperchild must be a positive int or None"):
            Pool(1, maxtasksperchild=value)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="initializer must be a callable"):
        Pool(1, initializer=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no such option: 'color'"):
        Pool(1, color="red")  # type: ignore[call-arg]


def test_processes_are_by_default_the_slots_of_the_runners(make: MakePool) -> None:
    assert make().map(square, range(3)) == [0, 1, 4]
    assert "pool_size=elastic" in repr(make())
    assert repr(make(3)) == "<dragonfly_executor.multiprocessing.Pool state=RUN pool_size=3>"


def test_a_context_has_the_pool(mailbox: Mailbox, gate: Gate) -> None:
    context = get_context("spawn")
    with context.Pool(1, set_up, (3,), maxtasksperchild=5) as pool:
        assert isinstance(pool, Pool)
        assert pool.map(what_was_set, [0]) == [3]
    assert context.cpu_count() == cpu_count() == multiprocessing.cpu_count()
    assert context.get_start_method() == "spawn"
    with pytest.raises(ValueError, match="cannot find context"):
        get_context("teleport")


def test_names_are_those_of_multiprocessing() -> None:
    assert TimeoutError is multiprocessing.TimeoutError
    assert not hasattr(dragonfly_executor.multiprocessing, "no_such_name")
    assert AsyncResult[int].__origin__ is AsyncResult  # type: ignore[attr-defined]


# -- on a pool that exists ---------------------------------------------------------------------------------------------


def test_an_existing_pool_outlives_what_is_made_on_it(mailbox: Mailbox, gate: Gate) -> None:
    with dragonfly_executor.Pool("shared", min=0, max=1, max_concurrency=2, timeout=None) as shared:
        with Pool(pool=shared) as pool:
            assert pool.map(square, range(3)) == [0, 1, 4]
            own = pool.apply_async(hold, (mailbox.path, gate.path))
            other = shared.submit(wait_at, gate.path)
            mailbox.read()
        with pytest.raises(Exception, match="the pool was terminated"):
            own.get(PATIENCE)
        gate.open(2)
        assert other.result(PATIENCE) is None
        second = Pool(pool=shared)
        late = second.apply_async(square, (4,))
        second.close()
        second.join()
        assert late.get(0) == 16
        with pytest.raises(ValueError, match="Pool not running"):
            second.apply(square, (1,))
        assert shared.call(square, 5) == 25
        with pytest.raises(TypeError, match="no pool options"):
            Pool(2, pool=shared)
