"""What slots do with values and arrays that have no lock, and with selectors on pipes."""

from __future__ import annotations

import ctypes
import selectors
import signal
from multiprocessing import connection, sharedctypes
from typing import Any

from tests.processes.objects.programs import Interrupt, error_name

KEPT: dict[str, Any] = {}


class Inner(ctypes.Structure):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char * 8))


class Outer(ctypes.Structure):
    """A structure with parts of each kind."""

    _fields_ = (("weight", ctypes.c_double), ("inner", Inner), ("table", ctypes.c_int * 3))


def new_outer() -> Any:
    return sharedctypes.RawValue(Outer, 0.5, Inner(1, b"one"), (1, 2, 3))


def use_raw(number: Any, row: Any, text: Any) -> list[Any]:
    """Read and write plain values."""
    found = [number.value, row[:], row[1], len(row), text.value, text.raw, list(row)]
    number.value += 1
    row[0] = 2.5
    row[1:] = (8, 9)
    text.value = b"other"
    return [*found, error_name(lambda: row[10]).partition(":")[0], error_name(lambda: number.other).partition(":")[0]]


def use_structures(outer: Any, rows: Any) -> list[Any]:
    """Read and write parts of structures, and arrays of structures, at any depth."""
    found = [outer.weight, outer.inner.number, outer.inner.name, outer.table[:], len(rows), rows[-1].number]
    outer.weight = 1.5
    outer.inner.number += 1
    outer.inner.name = b"two"
    outer.table[2] = 7
    rows[0] = Inner(5, b"five")
    rows[1].number = ctypes.c_int(6)
    for each in rows[2:]:
        each.number += 10
    return [*found, error_name(lambda: outer.inner.other).partition(":")[0]]


def assign_parts(outer: Any, pairs: Any) -> None:
    """Assign whole parts."""
    outer.inner = Inner(3, b"three")
    outer.table = (4, 5, 6)
    pairs[0] = (ctypes.c_int * 2)(1, 2)
    pairs[1][1] = 3


def use_locked(rows: Any, outer: Any) -> None:
    """Use an `Array` and a `Value` of structures, with their locks."""
    rows[1].number = 4
    outer.inner.number += 1
    with rows.get_lock():
        rows[2].number += 1


def keep(*found: Any) -> None:
    KEPT["found"] = found


def add_to_kept(index: int) -> int:
    """Write to an array that the initializer got."""
    KEPT["found"][0][index] += 1
    return int(KEPT["found"][0][index])


def drop_kept() -> None:
    KEPT.clear()


def numpy_sum(row: Any) -> float:
    """Use the memory itself, as NumPy does."""
    view = memoryview(row).cast("B").cast("d")
    view[0] = 10.0
    return sum(view)


def send_to_child(row: Any) -> str:
    from dragonfly_executor.parent import Parent

    found = Parent.get()
    assert found is not None
    return error_name(Parent.pool().submit, len, row)


def set_odd(number: Any, event: Any, value: Any) -> list[str]:
    """Assign what is not of a built-in type, and wait with such a timeout."""
    number.value = value
    return [error_name(setattr, number, "value", object()), repr(event.wait(type(value)(0)))]


def merge(readers: list[Any], count: int) -> list[Any]:
    """Take messages from several pipes, as they come, until all are at their end."""
    found: list[Any] = []
    left = list(readers)
    while left:
        for ready in connection.wait(left):
            try:
                found.append(ready.recv())  # type: ignore[union-attr]
            except EOFError:
                left.remove(ready)
                ready.close()  # type: ignore[union-attr]
    assert len(found) == count
    return sorted(found)


def serve_selector(*ends: Any) -> list[Any]:
    """Answer what comes on several ends, each registered once."""
    found = []
    with selectors.DefaultSelector() as selector:
        for end in ends:
            selector.register(end, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                try:
                    message = key.fileobj.recv()  # type: ignore[union-attr]
                except EOFError:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]
                else:
                    key.fileobj.send(message)  # type: ignore[union-attr]
                    found.append(message)
    return found


def wait_briefly(end: Any) -> list[Any]:
    """Wait for an end on which nothing comes, and let go of it."""
    return [connection.wait([end], 0.02), error_name(end.fileno).isdigit()]


def interrupted_wait(end: Any) -> list[Any]:
    """Wait for an end, and end the waits by the handler of an alarm, which raises. Then take what comes."""
    found: list[Any] = [interrupted_by_alarm(lambda: connection.wait([end])), interrupted_by_alarm(end.recv)]
    end.send("ready")
    assert connection.wait([end]) == [end]
    return [*found, end.recv(), connection.wait([end], 0.02)]


def interrupted_by_alarm(wait: Any) -> str:
    """Return how a wait ends that an alarm interrupts."""

    def stop(number: int, frame: Any) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        wait()
    except Interrupt:
        return "interrupted"
    finally:
        signal.signal(signal.SIGALRM, before)
    return "returned"
