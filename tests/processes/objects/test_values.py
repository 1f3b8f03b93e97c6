"""Multiprocessing's values, arrays, pipes and shared memory in calls."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker, shared_memory
from multiprocessing.connection import Connection
from typing import Any

import pytest

from dragonfly_executor import LocalBackend
from dragonfly_executor.serialization import object_details
from tests.processes.conftest import Make
from tests.processes.objects import programs
from tests.support.dialback import DialingBackend
from tests.support.helpers import PATIENCE, Mailbox, error_of


@pytest.fixture(params=["mapped", "served", "dial-back"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Makes the backend of a place. Slots on other machines cannot map the parent's memory."""
    if request.param != "mapped":
        monkeypatch.setattr(object_details, "arena_place", lambda wrapper: None)
        monkeypatch.setattr(object_details, "machine", lambda: "another")
    elif sys.platform != "linux":
        pytest.skip("only there slots map the parent's memory")
    return DialingBackend if request.param == "dial-back" else LocalBackend


@pytest.fixture
def block() -> Iterator[shared_memory.SharedMemory]:
    """A block of shared memory. The process that multiprocessing starts with it ends, too."""
    block = shared_memory.SharedMemory(create=True, size=4096)
    yield block
    block.close()
    block.unlink()
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


@contextmanager
def pipe(duplex: bool = True) -> Iterator[tuple[Connection, Connection]]:
    one, other = multiprocessing.Pipe(duplex)
    with one, other:
        yield one, other


def test_values_and_arrays(make: Make, place: Callable[[], Any]) -> None:
    executor = make(2, backend=place())
    counter = multiprocessing.Value("i", 3)
    numbers, text = multiprocessing.Array("l", [1, 2, 3, 4]), multiprocessing.Array("c", b"some text")
    point = multiprocessing.Value(programs.Point, 0.5, 2)
    found = executor.submit(programs.use_values, counter, numbers, text, point).result(PATIENCE)
    assert found[:8] == [3, [1, 2, 3, 4], 2, 4, b"some text", b"some text", 0.5, 2]
    assert found[8:] == ["IndexError: invalid index", "AttributeError"]
    assert (counter.value, numbers[:], text.value, point.x, point.y) == (7, [5, 2, 8, 9], b"other", 1.5, 3)  # type: ignore[attr-defined]
    assert executor.submit(programs.through_memory, numbers).result(PATIENCE) == 4
    assert numbers[:] == [10, 4, 16, 18]
    is_mapped = executor.submit(programs.memory_type, numbers).result(PATIENCE) != "MemoryPart"
    assert is_mapped == (object_details.arena_place.__name__ == "arena_place")


def test_a_counter_loses_no_addition(make: Make, place: Callable[[], Any]) -> None:
    executor, counter = make(3, backend=place(), max_concurrency=3), multiprocessing.Value("i", 0)
    futures = [executor.submit(programs.count_up, counter, 50) for _ in range(3)]
    programs.count_up(counter, 50)
    for future in futures:
        future.result(PATIENCE)
    assert counter.value == 200


def test_an_end_of_a_pipe(make: Make, place: Callable[[], Any]) -> None:
    """The program closes its own end, as with a process of multiprocessing. Large messages pass, too."""
    executor = make(2, backend=place())
    with pipe() as (here, there):
        future = executor.submit(programs.serve_pipe, there)
        there.close()
        for message in (1, {"two": 2}, os.urandom(300_000)):
            here.send(message)
            assert here.recv() == ("answer to", message)
        here.close()
        assert future.result(PATIENCE) == "end"
    with pipe() as (here, there):
        here.send_bytes(b"bytes")
        here.send_bytes(b"more")
        future = executor.submit(programs.use_pipe, there)
        there.close()
        assert here.recv_bytes() == b"two"
        closed = "OSError: handle is closed"
        expected = [True, True, True, b"bytes", 4, b"\0more", False, False, True, closed, closed]
        assert future.result(PATIENCE) == expected
        with pytest.raises(EOFError):
            here.recv()


def test_a_slot_that_is_killed_closes_its_end(make: Make, mailbox: Mailbox) -> None:
    executor = make(1)
    with pipe() as (here, there):
        future = executor.submit(programs.announce, mailbox.path, there, "recv")
        there.close()
        os.kill(mailbox.numbers(1)[0], signal.SIGKILL)
        error_of(future)
        with pytest.raises(EOFError):
            here.recv()
    with pipe(duplex=False) as (reader, writer):
        assert "write-only" in executor.submit(programs.error_name_of, writer, "recv").result(PATIENCE)
        assert "read-only" in executor.submit(programs.error_name_of, reader, "send", 1).result(PATIENCE)
        assert executor.submit(programs.invoke, reader, "poll", 0.02).result(PATIENCE) is False


def test_proxies_of_a_manager(make: Make, place: Callable[[], Any]) -> None:
    executor = make(2, backend=place())
    with multiprocessing.Manager() as manager:
        table, lock, names = manager.dict(), manager.RLock(), manager.Namespace()
        table["number"], names.text = 1, "text"
        counter = manager.Value("i", 3)
        found = executor.submit(programs.use_proxies, table, lock, names, counter, manager.Queue()).result(PATIENCE)
        assert found == [1, {"number": 2}, "text", 3, "KeyError: 'absent'", "item"]
        assert (table.copy(), names.text, counter.value) == ({"number": 2}, "other", 4)
        assert lock.acquire(True, PATIENCE)
        lock.release()


def test_shared_memory(make: Make, place: Callable[[], Any], block: shared_memory.SharedMemory) -> None:
    executor = make(1, backend=place())
    found = executor.submit(programs.fill_block, block).result(PATIENCE)
    assert found == [b"\1abc", 1, block.size, block.name]
    assert bytes(block.buf[:4]) == b"\1abc"
    executor.shutdown()
    shared_memory.SharedMemory(block.name).close()  # it was not unlinked with the slot
