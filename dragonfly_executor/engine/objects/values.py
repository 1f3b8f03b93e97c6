"""Serves multiprocessing's values, arrays and shared memory."""

from __future__ import annotations

from dragonfly_executor.engine.objects.request import LATER, ServedObject
from dragonfly_executor.engine.objects.semaphores import HeldSemaphores
from dragonfly_executor.serialization.object_details import field_type, is_composite
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dragonfly_executor.engine.objects.request import Request


def place(index: Any) -> Any:
    """Return an index or a slice. A slice travels as a tuple."""
    return slice(*index) if isinstance(index, tuple) else index


class ServedRawValue(ServedObject):
    """Serves a `RawValue` or `RawArray`: attributes and items of it and of its parts.

    The arguments of a request are False, the items and attributes that lead to the part, one that is read or assigned,
    and the value that is assigned.
    """

    METHODS = frozenset({"get", "set", "item", "set_item"})

    def __init__(self, value: Any, semaphores: HeldSemaphores, shielded: Callable[[], object]) -> None:
        self._memory = value

    def now(self, request: Request) -> Any:
        """See `ServedObject`."""
        return self._perform(request)

    def _perform(self, request: Request) -> Any:
        method, (_, path, key, *values) = request.method, request.args
        part = self._memory
        for step in path:
            part = getattr(part, _name(part, step)) if isinstance(step, str) else part[step]
        if method == "item":
            return part[place(key)]
        if method == "set_item":
            part[place(key)] = _assigned(type(part)._type_, values[0])
            return None
        name = _name(part, key)
        if method == "get":
            return getattr(part, name)
        return setattr(part, name, _assigned(field_type(type(part), name), values[0]))


def _name(part: Any, name: str) -> str:
    """Return the name of an attribute that slots may use.

    Raises:
        AttributeError: there is no such attribute.
    """
    if name not in ("value", "raw") and field_type(type(part), name) is None:
        raise AttributeError(f"{type(part).__name__!r} object has no attribute {name!r}")
    return name


def _assigned(kind: Any, value: Any) -> Any:
    """Return a value that a slot assigns. Structures and arrays travel as their bytes."""
    if kind is None or not is_composite(kind):
        return value
    if isinstance(value, bytes):
        return kind.from_buffer_copy(value)
    if isinstance(value, list):  # for a slice
        return [_assigned(kind, one) for one in value]
    return value


class ServedValue(ServedRawValue):
    """Serves a `Value` or `Array`. Each request acquires its lock unless the first argument is False."""

    WAITING = ServedRawValue.METHODS

    def __init__(self, value: Any, semaphores: HeldSemaphores, shielded: Callable[[], object]) -> None:
        super().__init__(value.get_obj(), semaphores, shielded)
        self._lock = semaphores.of(value.get_lock())

    def now(self, request: Request) -> Any:
        """See `ServedObject`."""
        if not request.args[0]:
            return self._perform(request)
        if not self._lock.try_acquire(request.owner):
            return LATER
        return self._release_after(request)

    def run(self, request: Request) -> Any:
        """See `ServedObject`."""
        self._lock.acquire(request)
        return self._release_after(request)

    def _release_after(self, request: Request) -> Any:
        try:
            return self._perform(request)
        finally:
            self._lock.release(request.owner)


class ServedMemory(ServedObject):
    """Serves a block of shared memory to slots on other machines."""

    METHODS = frozenset({"item", "set_item"})

    def __init__(self, value: Any, semaphores: HeldSemaphores, shielded: Callable[[], object]) -> None:
        self._real = value

    def now(self, request: Request) -> Any:
        """See `ServedObject`."""
        key = place(request.args[0])
        if request.method == "item":
            found = self._real.buf[key]
            return bytes(found) if isinstance(found, memoryview) else found
        self._real.buf[key] = request.args[1]
        return None


SERVED = {
    "Synchronized": ServedValue,
    "SynchronizedArray": ServedValue,
    "SynchronizedString": ServedValue,
    "SynchronizedBase": ServedValue,
    "RawValue": ServedRawValue,
    "SharedMemory": ServedMemory,
}
