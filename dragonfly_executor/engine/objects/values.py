"""Serves multiprocessing's values, arrays and shared memory."""

from __future__ import annotations

from dragonfly_executor.engine.objects.request import LATER, ServedObject
from dragonfly_executor.engine.objects.semaphores import HeldSemaphores
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dragonfly_executor.engine.objects.request import Request


def place(index: Any) -> Any:
    """Return an index or a slice. A slice travels as a tuple."""
    return slice(*index) if isinstance(index, tuple) else index


class ServedValue(ServedObject):
    """Serves a `Value` or `Array`: attributes and items, each under its lock unless the first argument is False."""

    METHODS = frozenset({"get", "set", "item", "set_item"})
    WAITING = METHODS

    def __init__(self, value: Any, semaphores: HeldSemaphores, shielded: Callable[[], object]) -> None:
        self._found = value.get_obj()
        self._lock = semaphores.of(value.get_lock())
        self._names = {"value", "raw"} | {field[0] for field in getattr(type(self._found), "_fields_", ())}

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

    def _perform(self, request: Request) -> Any:
        key = request.args[1]
        if request.method == "item":
            return self._found[place(key)]
        if request.method == "set_item":
            self._found[place(key)] = request.args[2]
            return None
        if key not in self._names:
            raise AttributeError(f"{type(self._found).__name__!r} object has no attribute {key!r}")
        if request.method == "get":
            return getattr(self._found, key)
        return setattr(self._found, key, request.args[2])


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
    "SharedMemory": ServedMemory,
}
