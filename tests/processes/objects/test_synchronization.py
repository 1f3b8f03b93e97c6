"""Multiprocessing's locks, semaphores, events, conditions and barriers in calls: the parent has the real ones."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import LocalBackend, RunnerLostError
from dragonfly_executor.multiprocessing import Pool
from tests.processes.conftest import Make
from tests.processes.objects import programs
from tests.support.dialback import DialingBackend
from tests.support.helpers import PATIENCE, Gate, Mailbox, becomes_true, error_of
from tests.support.payloads import agent_pid

PLACES = pytest.mark.parametrize("backend", [LocalBackend, DialingBackend], ids=["here", "dial-back"])


@PLACES
def test_locks_exclude_slots_and_the_parent(make: Make, backend: Callable[[], Any], tmp_path: Path) -> None:
    executor = make(3, backend=backend(), max_concurrency=3)
    for make_lock in (multiprocessing.Lock, multiprocessing.RLock, multiprocessing.Semaphore):
        lock, path = make_lock(), tmp_path / make_lock.__name__
        path.write_text("0")
        futures = [executor.submit(programs.add_in_file, lock, str(path), 40) for _ in range(3)]
        programs.add_in_file(lock, str(path), 40)
        for future in futures:
            future.result(PATIENCE)
        assert path.read_text() == "160"


def test_errors_and_timeouts_are_those_of_multiprocessing(make: Make) -> None:
    executor = make(2)
    arguments: Any = (multiprocessing.Lock(), multiprocessing.RLock(), multiprocessing.BoundedSemaphore(2))
    assert executor.submit(programs.misuse, *arguments).result(PATIENCE) == programs.misuse(*arguments)
    for lock in arguments[:2]:
        with lock:
            assert executor.submit(programs.attempts, lock).result(PATIENCE) == [False] * 4
    assert executor.submit(programs.enter_again, arguments[1]).result(PATIENCE) == [True, True]
    with pytest.raises(TypeError):
        executor.submit(programs.invoke, arguments[0], "acquire", True, "soon").result(PATIENCE)


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition"])
def test_a_slot_that_is_killed_lets_go_of_what_it_held(make: Make, mailbox: Mailbox, gate: Gate, kind: str) -> None:
    executor, lock = make(2), getattr(multiprocessing, kind)()
    future = executor.submit(programs.hold, lock, mailbox.path, gate.path)
    (pid,) = mailbox.numbers(1)
    assert not lock.acquire(False)
    waiting = executor.submit(programs.announce, mailbox.path, lock, "acquire", True, PATIENCE)
    mailbox.numbers(1)
    os.kill(pid, signal.SIGKILL)
    assert isinstance(error_of(future), RunnerLostError)
    assert waiting.result(PATIENCE) is True
    assert not lock.acquire(False)


def test_a_runner_that_is_lost_lets_go_of_what_its_slots_held(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    executor, lock = make(1), multiprocessing.Lock()
    agent = executor.submit(agent_pid).result(PATIENCE)
    future = executor.submit(programs.hold, lock, mailbox.path, gate.path)
    mailbox.numbers(1)
    os.kill(agent, signal.SIGKILL)
    assert isinstance(error_of(future), RunnerLostError)
    assert lock.acquire(True, PATIENCE)


def test_a_slot_that_is_killed_waits_no_more(make: Make, mailbox: Mailbox) -> None:
    """For a lock, for a notification, at a barrier, in this order."""
    executor = make(2)
    lock, condition, barrier = multiprocessing.Lock(), multiprocessing.Condition(), multiprocessing.Barrier(3)
    with lock:
        futures = [executor.submit(programs.announce, mailbox.path, lock, "acquire")]
        os.kill(mailbox.numbers(1)[0], signal.SIGKILL)
        error_of(futures[0])
    assert executor.submit(programs.invoke, lock, "acquire", True, PATIENCE).result(PATIENCE)

    future = executor.submit(programs.wait_in, condition, mailbox.path)
    (pid,) = mailbox.numbers(1)
    with condition:  # the slot has released it, so it waits
        os.kill(pid, signal.SIGKILL)
    error_of(future)
    other = executor.submit(programs.wait_in, condition, mailbox.path)
    mailbox.numbers(1)
    with condition:
        condition.notify_all()
    assert other.result(PATIENCE) is True

    waiting = [executor.submit(programs.announce, mailbox.path, barrier, "wait") for _ in range(2)]
    pids = mailbox.numbers(2)
    assert becomes_true(executor.pool, lambda: barrier.n_waiting == 2)
    os.kill(pids[0], signal.SIGKILL)
    assert {type(error_of(each)).__name__ for each in waiting} == {"RunnerLostError", "BrokenBarrierError"}


@PLACES
def test_events_conditions_and_barriers_work_both_ways(
    make: Make, backend: Callable[[], Any], mailbox: Mailbox
) -> None:
    executor = make(3, backend=backend(), max_concurrency=3)
    event, other, condition = multiprocessing.Event(), multiprocessing.Event(), multiprocessing.Condition()
    assert executor.submit(event.wait, 0.02).result(PATIENCE) is False
    waiting = executor.submit(programs.announce, mailbox.path, event, "wait")
    mailbox.numbers(1)
    event.set()
    assert waiting.result(PATIENCE) is True
    assert executor.submit(event.is_set).result(PATIENCE) is True
    executor.submit(event.clear).result(PATIENCE)
    executor.submit(other.set).result(PATIENCE)
    assert (event.is_set(), other.wait(PATIENCE)) == (False, True)

    waiters = [executor.submit(programs.wait_in, condition, mailbox.path) for _ in range(2)]
    mailbox.numbers(2)
    executor.submit(programs.notify, condition, 2).result(PATIENCE)
    assert [each.result(PATIENCE) for each in waiters] == [True, True]
    assert executor.submit(programs.wait_in, condition, mailbox.path, 0.02).result(PATIENCE) is False
    waiter = executor.submit(programs.wait_for_event, condition, event, mailbox.path)
    mailbox.numbers(2)
    with condition:
        event.set()
        condition.notify_all()
    assert waiter.result(PATIENCE) is True
    assert "AssertionError" in executor.submit(programs.error_name, condition.notify).result(PATIENCE)

    barrier = multiprocessing.Barrier(3)
    with ThreadPoolExecutor(1) as threads:
        here = threads.submit(barrier.wait)
        places = [executor.submit(barrier.wait) for _ in range(2)]
        assert sorted(each.result(PATIENCE) for each in (here, *places)) == [0, 1, 2]


@pytest.mark.parametrize("make_pool", [None, Pool], ids=["executor", "multiprocessing.Pool"])
def test_an_initializer_gets_objects(make: Make, make_pool: Any) -> None:
    lock, other = multiprocessing.Lock(), multiprocessing.RLock()
    if make_pool is None:
        executor = make(2, initializer=programs.keep, initargs=(lock, other))
        assert os.getpid() not in list(executor.map(programs.with_kept, [0, 1] * 10, timeout=PATIENCE))
    else:
        with make_pool(2, programs.keep, (lock, other)) as pool:
            assert os.getpid() not in pool.map(programs.with_kept, [0, 1] * 10)
        pool.join()
    assert lock.acquire(False)


def test_a_stand_in_is_an_instance_of_the_class_and_stays_the_same_object(make: Make) -> None:
    executor = make(1)
    lock, event, items = multiprocessing.Lock(), multiprocessing.Event(), multiprocessing.SimpleQueue()
    found = executor.submit(programs.kinds, lock, event, multiprocessing.Queue()).result(PATIENCE)
    assert found == [True, True, True, "MultiprocessingObjectError"]
    assert executor.submit(programs.same, items, [items, items]).result(PATIENCE)
    assert executor.submit(programs.in_forked_child, lock).result(PATIENCE) == "MultiprocessingObjectError"
    items.close()


def test_objects_are_let_go_of(make: Make) -> None:
    """When no call has them any more, and no slot has a stand-in."""
    executor = make(1)
    events = [multiprocessing.Event() for _ in range(5)]
    assert [executor.submit(each.is_set).result(PATIENCE) for each in events] == [False] * 5
    alive = [weakref.ref(each) for each in events]
    del events
    # The slot tells that a stand-in is gone before it answers the next call.
    executor.submit(pow, 2, 2).result(PATIENCE)

    def are_gone() -> bool:
        gc.collect()
        return all(each() is None for each in alive)

    assert becomes_true(executor.pool, are_gone)


def test_a_signal_handler_ends_a_wait_and_nothing_is_lost(make: Make) -> None:
    executor = make(1)
    lock, items, condition = multiprocessing.Lock(), multiprocessing.Queue(), multiprocessing.Condition()
    with lock:
        assert executor.submit(programs.interrupted, lock, "acquire").result(PATIENCE) == "interrupted"
    assert lock.acquire(True, PATIENCE)
    assert executor.submit(programs.interrupted_in, condition).result(PATIENCE) == "interrupted"
    assert condition.acquire(True, PATIENCE)
    assert executor.submit(programs.interrupted, items, "get").result(PATIENCE) == "interrupted"
    items.put("kept")
    assert executor.submit(items.get, True, PATIENCE).result(PATIENCE) == "kept"
    items.close()
    items.join_thread()


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "lost"])
def test_a_pool_ends_while_slots_wait(make: Make, mailbox: Mailbox, killed: bool) -> None:
    """The census finds no thread."""
    executor, event, lock = make(3), multiprocessing.Event(), multiprocessing.Lock()
    agent = executor.submit(agent_pid).result(PATIENCE)
    with lock:
        futures = [
            executor.submit(programs.announce, mailbox.path, event, "wait"),
            executor.submit(programs.announce, mailbox.path, lock, "acquire"),
        ]
        mailbox.numbers(2)
        if killed:
            executor.kill_workers()
        else:
            os.kill(agent, signal.SIGKILL)
        assert all(error_of(each) is not None for each in futures)
        executor.shutdown()
