"""``chunksize="auto"``: chunks that grow, in which each item ends by itself."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count, islice, repeat
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import Pool
from dragonfly_executor.api.submitter import Submitter
from dragonfly_executor.core.chunk_size import ChunkSize
from dragonfly_executor.errors import (
    CallDeserializationError,
    CallSerializationError,
    ResultSerializationError,
    RunnerLostError,
)
from tests.processes.conftest import Make
from tests.support import payloads
from tests.support.helpers import PATIENCE, SOON, CountedNumbers, Gate, Mailbox, all_ended, values, watching


def auto(ex: Submitter, fn: Any, *iterables: Any, **options: Any) -> Iterator[Any]:
    return ex.map(fn, *iterables, chunksize="auto", **options)


@pytest.fixture
def in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """All chunks have ten items, whatever their items take."""
    monkeypatch.setattr(ChunkSize, "next", lambda self, left=None: 10)


@pytest.mark.parametrize("items", [0, 1, 2, 7, 1000, 20_000])
def test_values_come_in_order(items: int, make: Make) -> None:
    ex = make(2)
    assert list(auto(ex, payloads.echo, range(items))) == list(range(items))
    assert list(auto(ex, payloads.echo, iter(range(items)))) == list(range(items))
    assert list(auto(ex, pow, range(items), repeat(2))) == [n * n for n in range(items)]


def test_short_items_travel_in_chunks(make: Make) -> None:
    ex = make(2)
    list(auto(ex, payloads.echo, range(30_000)))
    assert ex.pool.stats().calls_done < 3000


def test_long_items_are_calls_of_their_own(make: Make) -> None:
    ex = make(2)
    list(auto(ex, time.sleep, [0.01] * 30))
    assert ex.pool.stats().calls_done == 30


def test_an_endless_iterator(make: Make) -> None:
    results = auto(make(2), payloads.echo, count())
    assert list(islice(results, 5000)) == list(range(5000))
    results.close()  # type: ignore[attr-defined]


def sleepy(n: int) -> tuple[int, int]:
    """Short items, then long ones."""
    if n >= 2000:
        time.sleep(0.06)
    return n, os.getpid()


def test_items_that_become_long_are_shared_out(make: Make) -> None:
    """Without that the slot that has the chunk runs them all, and the other slot none."""
    ex = make(2)
    results = list(auto(ex, sleepy, [*range(1980), *[2000] * 12, *range(500)]))
    assert [n for n, _ in results] == [*range(1980), *[2000] * 12, *range(500)]
    slots = Counter(pid for n, pid in results if n == 2000)
    assert len(slots) == 2
    assert max(slots.values()) <= 10


def log_and_fail_at(log: str, n: int) -> int:
    payloads.log(log, n)
    if n == 13:
        raise KeyError("mine")
    if n == 14:
        raise SystemExit(3)
    return n


@pytest.mark.usefixtures("in_chunks")
def test_an_exception_ends_its_own_item_alone(make: Make, log: Path) -> None:
    """Items 10 to 19 are one chunk: those before it come, and those behind it ran, once."""
    ex = make(1)
    results = auto(ex, log_and_fail_at, repeat(str(log)), range(20))
    assert list(islice(results, 13)) == list(range(13))
    with pytest.raises(KeyError, match="mine") as caught:
        next(results)
    assert caught.value.__notes__[0].startswith("raised for item 13 of the map (the first is item 0): (")
    assert "log_and_fail_at" in str(caught.value.__cause__)
    with pytest.raises(StopIteration):
        next(results)
    assert [int(line.split()[0]) for line in log.read_text().splitlines()] == list(range(20))


@pytest.mark.usefixtures("in_chunks")
def test_an_exit_and_a_stop_iteration_are_errors_of_their_items(make: Make) -> None:
    ex = make(1)
    with pytest.raises(SystemExit):
        list(auto(ex, log_and_fail_at, repeat(os.devnull), [1, 14, 2]))
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(auto(ex, next, [iter([1]), iter([]), iter([2])]))


@pytest.mark.usefixtures("in_chunks")
def test_an_argument_that_cannot_be_pickled_fails_its_own_item(make: Make) -> None:
    results = auto(make(1), payloads.echo, [0, 1, threading.Lock(), 3])
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(CallSerializationError, match="argument 1 of item 2 of the map"):
        next(results)


@pytest.mark.usefixtures("in_chunks")
def test_an_argument_that_cannot_be_opened_fails_its_own_item(make: Make) -> None:
    results = auto(make(1), payloads.echo, [0, 1, payloads.Harm("open on slot", "raise"), 3])
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(CallDeserializationError) as caught:
        next(results)
    assert caught.value.__notes__ == ["raised for item 2 of the map (the first is item 0)"]


def lock_at(n: int) -> Any:
    return threading.Lock() if n == 5 else n


@pytest.mark.usefixtures("in_chunks")
def test_a_value_that_cannot_be_pickled_fails_its_own_item(make: Make) -> None:
    results = auto(make(1), lock_at, range(10))
    assert list(islice(results, 5)) == list(range(5))
    with pytest.raises(ResultSerializationError, match="the result of item 5 of the map"):
        next(results)


def breaks_at(n: int) -> Iterator[int]:
    yield from range(n)
    raise KeyError("from the iterator")


@pytest.mark.usefixtures("in_chunks")
@pytest.mark.parametrize("items", [0, 1, 9, 10, 25])
def test_an_iterator_that_raises_does_so_after_all_items_before_it(items: int, make: Make) -> None:
    results = auto(make(1), payloads.echo, breaks_at(items))
    assert list(islice(results, items)) == list(range(items))
    with pytest.raises(KeyError, match="from the iterator") as caught:
        next(results)
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.usefixtures("in_chunks")
def test_a_lost_slot_loses_its_chunk(make: Make) -> None:
    results = auto(make(1), payloads.leave_if, [*[False] * 15, True, *[False] * 20])
    assert list(islice(results, 10)) == [None] * 10
    with pytest.raises(RunnerLostError) as caught:
        next(results)
    assert caught.value.__notes__ == ["raised for one of the items 10 to 19 of the map (the first is item 0)"]


def fork_at(log: str, n: int) -> int:
    payloads.log(log, n)
    if n == 3:
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
    return n


@pytest.mark.usefixtures("in_chunks")
def test_the_child_of_an_item_that_forks_runs_no_further_items(make: Make, log: Path) -> None:
    assert list(auto(make(1), fork_at, repeat(str(log)), range(10))) == list(range(10))
    assert len(log.read_text().splitlines()) == 10


def test_closing_stops_the_work(make: Make, mailbox: Mailbox) -> None:
    ex = make(2)
    results = auto(ex, payloads.hold_unless, [mailbox.path] * 40, [False, *[True] * 39])
    assert next(results) == "not held"
    with watching(*mailbox.numbers(2)) as watches:
        results.close()  # type: ignore[attr-defined]
        assert all_ended(watches)
    assert values(ex.submit(payloads.echo, n) for n in range(10)) == list(range(10))
    assert ex.pool.stats().calls_queued == 0


def test_a_timeout(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    results = auto(make(1), payloads.hold, [mailbox.path] * 3, [gate.path] * 3, timeout=0.05)
    with pytest.raises(TimeoutError):
        next(results)


@pytest.mark.parametrize("buffersize", [1, 3, 100])
def test_buffersize_bounds_how_many_are_taken_ahead(buffersize: int, make: Make) -> None:
    endless = CountedNumbers()
    results = auto(make(2), payloads.echo, endless, buffersize=buffersize)
    for n in range(2000):
        assert next(results) == n
        assert endless.taken <= n + 1 + 2 * buffersize
    results.close()  # type: ignore[attr-defined]


def raise_once(path: str, n: int) -> int:
    if n == 2 and not Path(path).exists():
        Path(path).touch()
        raise KeyError(n)
    return n


def test_options_of_each_call_leave_no_chunks(make: Make, tmp_path: Path) -> None:
    ex = make(2)
    view = ex.options(retries=1, retry_on=(KeyError,))
    assert list(auto(view, raise_once, repeat(str(tmp_path / "once")), range(200))) == list(range(200))
    assert list(auto(ex.options(run_timeout=PATIENCE), payloads.echo, range(200))) == list(range(200))
    assert ex.pool.stats().calls_done >= 400


def test_in_a_pool_and_with_dill(make: Make) -> None:
    with Pool("auto", min=0, max=2, max_concurrency=1) as pool:
        assert list(auto(pool, payloads.echo, range(3000))) == list(range(3000))
    assert list(auto(make(2, serializer="dill"), lambda n: n + 1, range(3000))) == list(range(1, 3001))


class Marshalling:
    """A serializer of the user's."""

    def dumps(self, value: Any) -> bytes:
        import cloudpickle

        data: bytes = cloudpickle.dumps(value)
        return b"mine" + data

    def loads(self, data: bytes) -> Any:
        import pickle

        assert data[:4] == b"mine"
        return pickle.loads(data[4:])


def test_with_a_serializer_of_the_users(make: Make) -> None:
    ex = make(1, serializer=Marshalling())
    assert list(auto(ex, payloads.echo, range(3000))) == list(range(3000))
    results = auto(ex, log_and_fail_at, repeat(os.devnull), range(11, 20))
    assert [next(results), next(results)] == [11, 12]
    with pytest.raises(KeyError):
        next(results)


def test_another_text_is_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="'auto'"):
        make(1).map(payloads.echo, [1], chunksize="big")  # type: ignore[arg-type]


@pytest.mark.usefixtures("in_chunks")
def test_two_calls_in_one_chunk_do_not_meet(make: Make, tmp_path: Path) -> None:
    """Why "auto" is not the default: the second call waits behind the first, which waits for it."""
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    os.mkfifo(here)
    os.mkfifo(there)
    ex = make(2)
    results = auto(ex, payloads.meet, [here, there], [there, here], [1, 2], timeout=0.5)
    with pytest.raises(TimeoutError):
        next(results)
    assert list(ex.map(payloads.meet, [here, there], [there, here], [1, 2])) == [1, 2]
    assert ex.submit(payloads.echo, 1).result(SOON) == 1


def hold_first(gate: str, mailbox: str, n: int) -> int:
    if n == 0:
        payloads.wait_at(gate)
    payloads.tell(mailbox, n)
    return n


@pytest.mark.parametrize("items", [200, 1000])
def test_a_long_first_item_holds_up_no_others(items: int, make: Make, gate: Gate, mailbox: Mailbox) -> None:
    """The thread that waits for it submits the chunks behind it meanwhile, 1024 at most."""
    ex = make(2)
    results = auto(ex, hold_first, repeat(gate.path), repeat(mailbox.path), range(items))
    values_of: list[int] = []
    taker = threading.Thread(target=lambda: values_of.extend(results))
    taker.start()
    assert sorted(mailbox.numbers(items - 1)) == [*range(1, items)]
    gate.open()
    taker.join(PATIENCE)
    assert values_of == list(range(items))
