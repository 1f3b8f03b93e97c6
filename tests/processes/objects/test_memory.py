"""Values and arrays without a lock, parts of structures, and pipes in selectors."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker, sharedctypes
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import CallSerializationError
from dragonfly_executor.serialization import object_details
from tests.processes.conftest import Make
from tests.processes.objects import memory
from tests.processes.objects.test_values import pipe, place
from tests.support.helpers import PATIENCE, Mailbox, error_of

__all__ = ["place"]


def test_raw_values_and_arrays(make: Make, place: Callable[[], Any]) -> None:
    executor = make(1, backend=place())
    number, row = sharedctypes.RawValue("i", 3), sharedctypes.RawArray("d", [1, 2, 3])
    text: Any = sharedctypes.RawArray("c", b"text....")
    found = executor.submit(memory.use_raw, number, row, text).result(PATIENCE)
    assert found[:7] == [3, [1.0, 2.0, 3.0], 2.0, 3, b"text....", b"text....", [1.0, 2.0, 3.0]]
    assert found[7:] == ["IndexError", "AttributeError"]
    assert (number.value, row[:], text.value) == (4, [2.5, 8.0, 9.0], b"other")


def test_structures_and_their_parts(make: Make, place: Callable[[], Any]) -> None:
    executor = make(1, backend=place())
    outer, rows = memory.new_outer(), sharedctypes.RawArray(memory.Inner, 4)
    found = executor.submit(memory.use_structures, outer, rows).result(PATIENCE)
    assert found == [0.5, 1, b"one", [1, 2, 3], 4, 0, "AttributeError"]
    assert (outer.weight, outer.inner.number, outer.inner.name, outer.table[:]) == (1.5, 2, b"two", [1, 2, 7])
    assert [(row.number, row.name) for row in rows] == [(5, b"five"), (6, b""), (10, b""), (10, b"")]
    pairs = sharedctypes.RawArray(ctypes.c_int * 2, 2)
    executor.submit(memory.assign_parts, outer, pairs).result(PATIENCE)
    assert (outer.inner.number, outer.inner.name, outer.table[:]) == (3, b"three", [4, 5, 6])
    assert [pair[:] for pair in pairs] == [[1, 2], [0, 3]]
    locked, value = multiprocessing.Array(memory.Inner, 3), multiprocessing.Value(memory.Outer)
    executor.submit(memory.use_locked, locked, value).result(PATIENCE)
    assert [row.number for row in locked] == [0, 4, 1]
    assert value.inner.number == 1  # type: ignore[attr-defined]


def test_an_initializer_gets_memory_that_stays(make: Make, place: Callable[[], Any]) -> None:
    row = sharedctypes.RawArray("l", 3)
    executor = make(1, backend=place(), initializer=memory.keep, initargs=(row,))
    assert [executor.submit(memory.add_to_kept, index).result(PATIENCE) for index in (0, 1, 1)] == [1, 1, 2]
    assert row[:] == [1, 2, 0]


@pytest.mark.skipif(sys.platform != "linux", reason="only there slots map the parent's memory")
def test_the_memory_itself_is_used_and_kept_while_a_slot_has_it(make: Make) -> None:
    executor = make(1)
    row = sharedctypes.RawArray("d", [1, 2, 3])
    assert executor.submit(memory.numpy_sum, row).result(PATIENCE) == 15
    assert row[0] == 10
    executor.submit(memory.keep, row).result(PATIENCE)
    start = object_details.arena_place(row._wrapper)
    del row
    gc.collect()
    # A block that is free is used again for the next value of this size.
    others = [sharedctypes.RawArray("d", 3) for _ in range(8)]
    assert start not in [object_details.arena_place(each._wrapper) for each in others]
    executor.submit(memory.drop_kept).result(PATIENCE)
    executor.submit(abs, 1).result(PATIENCE)
    others += [sharedctypes.RawArray("d", 3) for _ in range(8)]
    assert start in [object_details.arena_place(each._wrapper) for each in others]


def test_memory_does_not_travel_from_a_call(make: Make, place: Callable[[], Any]) -> None:
    executor, row = make(1, backend=place()), sharedctypes.RawArray("d", 3)
    text = executor.submit(memory.send_to_child, row).result(PATIENCE)
    assert "of multiprocessing that was made in a call cannot travel" in text or "MultiprocessingObjectError" in text
    assert "MultiprocessingObjectError" in str(error_of(executor.submit(abs_of, row)))
    assert executor.submit(abs, -1).result(PATIENCE) == 1


def abs_of(row: Any) -> Any:
    return row


def test_values_that_are_not_of_built_in_types_are_converted(make: Make, place: Callable[[], Any]) -> None:
    """The parent opens built-in types only. A request with another one would cost the runner."""
    numpy = pytest.importorskip("numpy")
    executor, event = make(1, backend=place()), multiprocessing.Event()
    agent = executor.submit(os.getppid).result(PATIENCE)
    for number in (multiprocessing.Value("d", 0.0), sharedctypes.RawValue("d", 0.0)):
        for value in (numpy.float64(1.5), numpy.int64(2), numpy.float32(0.5)):
            found = executor.submit(memory.set_odd, number, event, value).result(PATIENCE)
            assert number.value == value
            assert found[0].startswith("TypeError")
            assert found[1] == "False"
    assert executor.submit(os.getppid).result(PATIENCE) == agent


@pytest.fixture
def spawn() -> Iterator[Any]:
    """A context whose semaphores have names. The process that multiprocessing starts for them ends with the test."""
    yield multiprocessing.get_context("spawn")
    gc.collect()
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


def test_each_object_of_a_context_travels(make: Make, spawn: Any) -> None:
    executor = make(1)
    args = {"Barrier": (2,), "Value": ("i", 1), "Array": ("i", 2), "RawValue": ("i", 1), "RawArray": ("i", 2)}
    for context in (multiprocessing.get_context("fork"), spawn):
        for kind in (
            *("Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event", "Barrier", "Queue"),
            *("JoinableQueue", "SimpleQueue", "Value", "Array", "RawValue", "RawArray"),
        ):
            found = getattr(context, kind)(*args.get(kind, ()))
            assert executor.submit(is_here, found).result(PATIENCE), kind
            for close in ("close", "join_thread"):
                getattr(found, close, bool)()
    assert executor.submit(is_here, spawn).result(PATIENCE)
    executor.shutdown()


def is_here(found: Any) -> bool:
    return found is not None


def test_what_does_not_travel_says_what_to_do(make: Make) -> None:
    executor, context = make(1), multiprocessing.get_context()
    for found, advice in (
        (context.Process(target=abs), "Make it in the call"),
        (multiprocessing.current_process().authkey, "Pass bytes(...) of it"),
        (ctypes.pointer(ctypes.c_int(1)), "Pass what it points to"),
        (ctypes.CDLL(None), "Load the library in the call"),
        (ctypes.CDLL(None).abs, "Load the library in the call"),
    ):
        error = error_of(executor.submit(is_here, found))
        assert isinstance(error, CallSerializationError)
        assert advice in str(error)


def test_arrays_of_ctypes_travel_as_copies(make: Make) -> None:
    executor = make(1)
    assert executor.submit(list, (ctypes.c_int * 3)(1, 2, 3)).result(PATIENCE) == [1, 2, 3]
    rows = sharedctypes.RawArray(memory.Inner, 2)
    assert executor.submit(set_number, rows[0]).result(PATIENCE)[:] == [7, 7]
    assert rows[0].number == 0


def test_a_structure_that_no_runner_can_import_travels_with_its_class(make: Make) -> None:
    class Local(ctypes.Structure):
        _pack_ = 1
        _anonymous_ = ("inner",)
        _fields_ = (("weight", ctypes.c_double), ("inner", memory.Inner), ("table", ctypes.c_int * 3))

        def total(self) -> float:
            return self.weight + self.number + sum(self.table)

    executor, shared = make(1), sharedctypes.RawValue(Local, 1.5)

    def change(given: Any) -> Any:
        given.number, given.table[1] = 2, 3
        return given.total()

    for _ in range(2):
        assert executor.submit(change, Local(0.5)).result(PATIENCE) == 5.5
    assert executor.submit(change, shared).result(PATIENCE) == shared.total() == 6.5
    found = executor.submit(lambda: Local(0.5)).result(PATIENCE)
    assert (type(found), found.total()) == (Local, 0.5)


def set_number(row: Any) -> Any:
    row.number = 7
    return (ctypes.c_int * 2)(row.number, 7)


def test_ends_of_pipes_can_be_waited_for(make: Make, place: Callable[[], Any]) -> None:
    executor = make(1, backend=place())
    with pipe(False) as (first, first_end), pipe(False) as (second, second_end):
        future = executor.submit(memory.merge, [first, second], 40)
        first.close()
        second.close()
        for number in range(20):
            first_end.send(number)
            second_end.send(100 + number)
        first_end.close()
        second_end.close()
        assert future.result(PATIENCE) == [*range(20), *range(100, 120)]


def test_a_selector_keeps_an_end_that_was_registered_once(make: Make, place: Callable[[], Any]) -> None:
    executor = make(1, backend=place())
    with pipe() as (here, there), pipe() as (other, other_end):
        future = executor.submit(memory.serve_selector, there, other_end)
        there.close()
        other_end.close()
        for number in range(3):
            here.send(number)
            other.send(-number)
            assert (here.recv(), other.recv()) == (number, -number)
        here.send(b"x" * 200_000)
        assert len(here.recv()) == 200_000
        here.close()
        other.close()
        assert len(future.result(PATIENCE)) == 7


def test_a_wait_that_nothing_ends_leaves_nothing(make: Make) -> None:
    executor = make(1)
    with pipe() as (here, there):
        before = executor.submit(open_files).result(PATIENCE)
        assert executor.submit(memory.wait_briefly, there).result(PATIENCE) == [[], True]
        there.close()
        # The slot's end is gone with the call, and with it the wait in this process.
        with pytest.raises(EOFError):
            here.recv()
        assert executor.submit(open_files).result(PATIENCE) == before
    with pipe(False) as (reader, writer):
        assert executor.submit(memory_error, writer).result(PATIENCE) == "OSError: connection is write-only"
        reader.close()


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def memory_error(end: Any) -> str:
    return memory.error_name(end.fileno)


def test_a_slot_that_is_killed_in_a_wait_closes_its_end(make: Make, mailbox: Mailbox) -> None:
    executor = make(1)
    with pipe() as (here, there):
        future = executor.submit(announce_and_wait, mailbox.path, there)
        there.close()
        os.kill(mailbox.numbers(1)[0], signal.SIGKILL)
        error_of(future)
        with pytest.raises(EOFError):
            here.recv()


def announce_and_wait(mailbox: str, end: Any) -> None:
    from multiprocessing import connection

    from tests.support.payloads import tell

    end.fileno()
    tell(mailbox, os.getpid())
    connection.wait([end])


def test_waits_for_an_end_can_be_interrupted(make: Make) -> None:
    executor = make(1)
    with pipe() as (here, there):
        future = executor.submit(memory.interrupted_wait, there)
        there.close()
        assert here.recv() == "ready"
        here.send("message")
        assert future.result(PATIENCE) == ["interrupted", "interrupted", "message", []]
