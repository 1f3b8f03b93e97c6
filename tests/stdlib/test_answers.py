"""Answers that upstream's tests want to be the standard library's, for interpreters that come without those tests."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import current_process
from pickle import PicklingError
from typing import Any

import pytest

from dragonfly_executor import DragonflyExecutor
from dragonfly_executor.serialization import authkey


class ErrorAtPickle:
    def __reduce__(self) -> Any:
        raise PicklingError("as expected")


class ExitAtPickle:
    def __reduce__(self) -> Any:
        sys.exit(3)


class ExitAtUnpickle:
    def __reduce__(self) -> Any:
        return sys.exit, (3,)


def test_a_call_that_cannot_travel_fails_in_its_future() -> None:
    with DragonflyExecutor(1) as executor:
        future = executor.submit(id, ErrorAtPickle())
        with pytest.raises(PicklingError, match="as expected"):
            future.result(0)
        with pytest.raises(PicklingError):
            list(executor.map(id, [1, ErrorAtPickle()]))


def test_what_cannot_be_opened_is_a_broken_pool_to_code_that_exists() -> None:
    with DragonflyExecutor(1) as executor:
        with pytest.raises(BrokenProcessPool):
            executor.submit(id, ExitAtUnpickle()).result()
        with pytest.raises(BrokenProcessPool):
            executor.submit(ExitAtUnpickle).result()
        assert executor.submit(abs, -1).result() == 1, "but the pool is not broken"


def test_an_exit_while_the_result_is_pickled_is_the_calls_own() -> None:
    with DragonflyExecutor(1) as executor, pytest.raises(SystemExit) as info:
        executor.submit(ExitAtPickle).result()
    assert info.value.code == 3


def test_results_of_a_map_do_not_hold_the_executor() -> None:
    executor = DragonflyExecutor(1)
    engine = executor.pool._engine
    results = executor.map(abs, range(-3, 0))
    del executor
    gc.collect()
    engine.join(timeout=30)
    with pytest.raises(RuntimeError, match="cannot schedule new futures"):
        engine.check_open()
    assert list(results) == [3, 2, 1]


def test_cancelling_futures_spares_those_whose_slots_are_starting() -> None:
    executor = DragonflyExecutor(2)
    futures = [executor.submit(time.sleep, 0.01) for _ in range(20)]
    executor.shutdown(cancel_futures=True)
    assert all(future.done() for future in futures)
    ran = [future for future in futures if not future.cancelled()]
    assert futures[0] in ran
    assert len(ran) < len(futures)
    assert all(future.exception() is None for future in ran)


def test_an_error_about_max_workers_names_it() -> None:
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        DragonflyExecutor(-1)


@pytest.mark.parametrize("first", ["", "import multiprocessing.process; "])
def test_a_key_is_adopted_before_and_after_multiprocessing_is_imported(first: str) -> None:
    program = (
        f"{first}from dragonfly_executor.serialization import authkey; authkey.adopt(b'key'); import multiprocessing; "
        "assert bytes(multiprocessing.current_process().authkey) == b'key' == authkey.own_key()"
    )
    assert subprocess.run([sys.executable, "-c", program], check=True).returncode == 0


def test_managers_of_the_parent_know_its_slots_by_their_key() -> None:
    key = bytes(current_process().authkey)
    assert authkey.own_key() == key
    with DragonflyExecutor(1) as executor:
        assert executor.submit(_key).result() == key


def _key() -> bytes:
    return bytes(current_process().authkey)
