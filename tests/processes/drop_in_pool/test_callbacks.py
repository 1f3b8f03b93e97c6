"""Callbacks: when they run, where, and in which order."""

from __future__ import annotations

import logging
import threading
from queue import SimpleQueue
from typing import Any

import pytest

from dragonfly_executor import CallSerializationError, RunnerLostError
from dragonfly_executor.multiprocessing import AsyncResult, Pool
from tests.processes.drop_in_pool.conftest import MakePool
from tests.processes.drop_in_pool.test_methods import die_at_three, fail_from_three, square
from tests.support.helpers import PATIENCE, Gate, Mailbox
from tests.support.payloads import hold, hold_for_good, wait_at


def named(gate: str, name: str) -> str:
    wait_at(gate)
    return name


def test_a_result_is_ready_when_its_callback_has_returned(pool: Pool) -> None:
    got: list[Any] = []
    begun, go_on = threading.Event(), threading.Event()

    def callback(value: int) -> None:
        begun.set()
        assert go_on.wait(PATIENCE)
        got.append(value)

    result = pool.apply_async(square, (3,), callback=callback, error_callback=got.append)
    assert begun.wait(PATIENCE)
    result.wait(0.01)
    assert not result.ready()
    go_on.set()
    assert result.get(PATIENCE) == 9
    assert got == [9]


def test_callbacks_get_lists_and_errors(pool: Pool) -> None:
    got: list[Any] = []
    both: Any = {"callback": got.append, "error_callback": got.append}
    pool.map_async(square, range(3), **both).wait(PATIENCE)
    pool.starmap_async(pow, [(2, 3), (3, 2)], **both).wait(PATIENCE)
    pool.map_async(square, [], **both).wait(PATIENCE)
    assert got == [[0, 1, 4], [8, 9], []]
    del got[:]
    pool.map_async(fail_from_three, range(5), 1, **both).wait(PATIENCE)
    pool.apply_async(square, (threading.Lock(),), **both).wait(PATIENCE)
    pool.map_async(square, [threading.Lock()], **both).wait(PATIENCE)
    pool.apply_async(die_at_three, (3,), **both).wait(PATIENCE)
    kinds = [LookupError, CallSerializationError, CallSerializationError, RunnerLostError]
    assert [type(error) for error in got] == kinds


def test_callbacks_without_the_other_one(pool: Pool) -> None:
    got: list[Any] = []
    pool.apply_async(square, (2,), error_callback=got.append).wait(PATIENCE)
    pool.apply_async(fail_from_three, (3,), callback=got.append).wait(PATIENCE)
    assert got == []


def test_callbacks_run_one_after_another_as_the_results_arrive(make: MakePool, gate: Gate, tmp_path: Any) -> None:
    pool = make(3)
    gates = [Gate(tmp_path / name) for name in "abc"]
    calls: SimpleQueue[tuple[str, int]] = SimpleQueue()

    def callback(value: str) -> None:
        calls.put((value, threading.get_ident()))

    results = [
        pool.apply_async(named, (each.path, name), callback=callback) for each, name in zip(gates, "abc", strict=True)
    ]
    ran = []
    for number in (1, 2, 0):
        gates[number].open()
        ran.append(calls.get(timeout=PATIENCE))
    assert [name for name, _ in ran] == ["b", "c", "a"]
    assert len({thread for _, thread in ran} - {threading.get_ident()}) == 1
    assert [result.get(PATIENCE) for result in results] == ["a", "b", "c"]
    for each in gates:
        each.close()


@pytest.mark.parametrize("error", [ValueError("of the callback"), SystemExit(3)])
def test_a_callback_that_raises_disturbs_nothing(
    pool: Pool, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """In multiprocessing it ends the thread, and then no result arrives any more."""

    def callback(_: int) -> None:
        raise error

    with caplog.at_level(logging.ERROR):
        assert pool.apply_async(square, (3,), callback=callback).get(PATIENCE) == 9
    (record,) = caplog.records
    assert record.getMessage() == "exception in a callback of a pool"
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    got: list[int] = []
    pool.apply_async(square, (4,), callback=got.append).wait(PATIENCE)
    assert got == [16]


def test_a_callback_may_use_its_result_and_the_pool(pool: Pool) -> None:
    said: SimpleQueue[Any] = SimpleQueue()
    results: SimpleQueue[AsyncResult[Any]] = SimpleQueue()

    def callback(value: Any) -> None:
        result = results.get(timeout=PATIENCE)
        said.put((value, result.ready(), result.get(), pool.apply(square, (5,)), pool.map(square, [1])))
        try:
            pool.close()
            pool.join()
        except RuntimeError as error:
            said.put(str(error))

    results.put(pool.map_async(square, [2], callback=callback))
    assert said.get(timeout=PATIENCE) == ([4], True, [4], 25, [1])
    assert said.get(timeout=PATIENCE) == "a callback cannot join its own pool: it would wait for itself"
    pool.join()


def test_a_callback_may_terminate_the_pool(make: MakePool, mailbox: Mailbox) -> None:
    pool = make(2)
    ended = threading.Event()

    def callback(_: int) -> None:
        pool.terminate()
        ended.set()

    held = pool.apply_async(hold_for_good, (mailbox.path,))
    mailbox.read()
    pool.apply_async(square, (2,), callback=callback)
    assert ended.wait(PATIENCE)
    assert held.ready()
    pool.join()


def test_join_waits_for_callbacks(make: MakePool) -> None:
    pool = make(2)
    got: list[int] = []
    for number in range(50):
        pool.apply_async(square, (number,), callback=got.append)
    pool.close()
    pool.join()
    assert sorted(got) == [number**2 for number in range(50)]


def test_no_callback_is_called_once_the_pool_is_terminated(make: MakePool, mailbox: Mailbox, gate: Gate) -> None:
    pool = make(1)
    got: list[Any] = []
    both: Any = {"callback": got.append, "error_callback": got.append}
    results = [
        pool.apply_async(hold, (mailbox.path, gate.path), **both),
        pool.apply_async(square, (2,), **both),
        pool.map_async(square, range(3), **both),
    ]
    mailbox.read()
    pool.terminate()
    pool.join()
    assert all(result.ready() and not result.successful() for result in results)
    assert got == []
