"""Multiprocessing's objects in calls on SSH hosts: requests go over the connection that is there."""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

from tests.backends.ssh.calls import free
from tests.backends.ssh.conftest import Make, MakeBackend
from tests.backends.ssh.test_call_faults import QUICK
from tests.support.helpers import PATIENCE, error_of
from tests.support.sshd.faults import FaultyConnection

KEPT = multiprocessing.RawValue("i")
"""Keeps the block of memory that multiprocessing takes for the first value, and that the census would find."""


def work(counter: Any, numbers: Any, items: Any, connection: Any, table: Any) -> list[Any]:
    for _ in range(20):
        with counter.get_lock():
            counter.value += 1
    numbers[1:] = [number * 2 for number in numbers[1:]]
    items.put(b"x" * 20_000)
    connection.send(["sent", connection.recv()])
    table["host"] = table["number"] + 1
    return [numbers.get_obj()[0], items.get()]


def hold(lock: Any, items: Any) -> None:
    import os

    lock.acquire()
    items.put(os.getpid())
    items.get()
    items.get()


def test_objects_work_on_a_host(way: FaultyConnection, make_backend: MakeBackend, make: Make) -> None:
    executor = make(make_backend(way))
    counter, numbers = multiprocessing.Value("i", 0), multiprocessing.Array("d", [1.0, 2.0, 3.0])
    items: Any = multiprocessing.SimpleQueue()
    here, there = multiprocessing.Pipe()
    with here, multiprocessing.Manager() as manager:
        table = manager.dict(number=1)
        here.send("from here")
        future = executor.submit(free(work), counter, numbers, items, there, table)
        there.close()
        assert future.result(PATIENCE) == [1.0, b"x" * 20_000]
        assert (counter.value, numbers[:], table["host"]) == (20, [1.0, 4.0, 6.0], 2)
        assert here.recv() == ["sent", "from here"]
    items.close()


def test_a_lost_connection_lets_go_of_what_slots_held(
    way: FaultyConnection, make_backend: MakeBackend, make: Make
) -> None:
    executor = make(make_backend(way), **QUICK)
    lock, items = multiprocessing.Lock(), multiprocessing.SimpleQueue()
    future = executor.submit(free(hold), lock, items)
    pid = items.get()
    assert not lock.acquire(False)
    way.cut()
    error_of(future)
    assert lock.acquire(True, PATIENCE)
    assert pid != os.getpid()
    items.close()
