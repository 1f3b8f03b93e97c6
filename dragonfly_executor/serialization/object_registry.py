"""The parent's table of multiprocessing's objects that calls refer to."""

from __future__ import annotations

import threading
import weakref

from dragonfly_executor.serialization import rebuild
from dragonfly_executor.serialization.main_pickler import OBJECT_MODULES
from dragonfly_executor.serialization.object_details import DESCRIBED
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

KINDS = frozenset(
    {
        "Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event", "Barrier", "Queue", "JoinableQueue",
        "SimpleQueue", "Synchronized", "SynchronizedArray", "SynchronizedString", "SynchronizedBase", "RawValue",
        "Connection", "SharedMemory", "BaseProxy",
    }
)  # fmt: skip
"""The classes whose objects the parent serves."""


class ServedEntry:
    """One object. It exists while a payload refers to the object, or a slot has a stand-in for it.

    Attributes:
        number: its number in this pool.
        kind: one of `KINDS`.
        value: the object itself; of a pipe's end a duplicate, because a program closes its own.
        origin: a weak reference to the object.
        detail: what the stand-in needs to know.
        served: what serves it, once a slot has sent a request.
    """

    __slots__ = ("__weakref__", "detail", "kind", "number", "origin", "served", "value")

    def __init__(self, number: int, kind: str, value: Any) -> None:
        self.number = number
        self.kind = kind
        self.origin = weakref.ref(value)
        self.detail: Any
        self.value, self.detail = DESCRIBED[kind](value) if kind in DESCRIBED else (value, None)
        self.served: Any = None


class ObjectRegistry:
    """The objects of one pool, by number. Any thread may use it. It holds them by weak references."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._by_number: weakref.WeakValueDictionary[int, ServedEntry] = weakref.WeakValueDictionary()
        self._by_id: weakref.WeakValueDictionary[int, ServedEntry] = weakref.WeakValueDictionary()

    def refer(self, value: Any) -> ServedEntry | None:
        """Return the entry of an object. The caller keeps it. None if objects of this class are not served."""
        kind = kind_of(value)
        if kind is None:
            return None
        with self._lock:
            entry = self._by_id.get(id(value))
            if entry is None or entry.origin() is not value:
                self._count += 1
                entry = ServedEntry(self._count, kind, value)
                self._by_number[entry.number] = self._by_id[id(value)] = entry
        return entry

    def add(self, kind: str, value: Any, served: Any) -> ServedEntry:
        """Return a new entry of an object that is not multiprocessing's. The caller keeps it.

        Args:
            kind: the name of its kind.
            value: the object.
            served: what serves it.
        """
        with self._lock:
            self._count += 1
            entry = self._by_number[self._count] = ServedEntry(self._count, kind, value)
        entry.served = served
        return entry

    def reduced(self, value: Any, held: list[object]) -> Any:
        """Return the reduction of an object, as `NameTracking.refer` does: a reference by its number."""
        entry = self.refer(value)
        if entry is None:
            return NotImplemented
        held.append(entry)
        return rebuild.served_object, (entry.kind, entry.number, entry.detail)

    def find(self, number: int) -> ServedEntry | None:
        """Return the entry with this number; None if it is gone."""
        return self._by_number.get(number)


def kind_of(value: Any) -> str | None:
    """Return the kind of an object of multiprocessing; None if the parent does not serve it."""
    if type(type(value)).__module__ == "_ctypes":
        # A part of an array has no wrapper of its own, and is pickled as a copy.
        wrapper = getattr(value, "_wrapper", None)
        return "RawValue" if type(wrapper).__module__ == "multiprocessing.heap" else None
    for base in type(value).__mro__:
        if base.__module__ in OBJECT_MODULES and base.__name__ in KINDS:
            return base.__name__
    return None
