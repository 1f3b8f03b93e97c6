"""Memory of the parent in a slot: mapped on the parent's machine, elsewhere each access is a request."""

from __future__ import annotations

import os
from mmap import mmap

from dragonfly_executor.errors.base import MultiprocessingObjectError
from dragonfly_executor.runner.stand_ins import StandIn
from dragonfly_executor.serialization.object_details import field_type, is_composite
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, NoReturn

    from dragonfly_executor.runner.stand_ins import Requests


def mapped(place: tuple[int, int, str, int, int, int] | None) -> memoryview | None:
    """Return the memory of a value of the parent; None if this process cannot map it.

    Args:
        place: see `arena_place`.
    """
    if place is None:
        return None
    pid, fd, name, total, start, end = place
    path = f"/proc/{pid}/fd/{fd}"
    try:
        if os.readlink(path) != name:
            return None
        own = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            return memoryview(mmap(own, total))[start:end]
        finally:
            os.close(own)
    except (OSError, ValueError):
        return None


def travelling(index: Any) -> Any:
    """Return an index in the form in which it travels."""
    return (index.start, index.stop, index.step) if isinstance(index, slice) else index


class MemoryPart:
    """A value, an array, a structure, or a part of these, in memory that is not mapped here.

    Args:
        owner: the stand-in that sends the requests.
        kind: the type of ctypes.
        locked: whether each request acquires the lock of the value.
        path: the items and attributes that lead from the whole value to this part.
    """

    def __init__(self, owner: Any, kind: Any, locked: bool, path: tuple[str | int, ...] = ()) -> None:
        vars(self).update(_owner=owner, _kind=kind, _locked=locked, _path=path)

    def __getattr__(self, name: str) -> Any:
        kind = self._kind_of(name)
        return self._request("get", name) if kind is None or not is_composite(kind) else self._part(kind, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._kind_of(name)
        self._request("set", name, value)

    def __len__(self) -> int:
        return self._elements()[1]

    def __getitem__(self, index: Any) -> Any:
        element, length = self._elements()
        if not is_composite(element):
            return self._request("item", travelling(index))
        found = range(length)[index]
        return self._part(element, found) if isinstance(found, int) else [self._part(element, one) for one in found]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._elements()
        self._request("set_item", travelling(index), value)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise MultiprocessingObjectError("memory of the parent cannot be pickled in a call: read its values")

    def __repr__(self) -> str:
        return f"<{self._kind.__name__} in memory of the parent>"

    def _part(self, kind: Any, step: str | int) -> MemoryPart:
        return MemoryPart(self._owner, kind, self._locked, (*self._path, step))

    def _request(self, method: str, key: Any, *value: Any) -> Any:
        return self._owner._call(method, self._locked, self._path, key, *map(_plain, value))  # noqa: SLF001

    def _elements(self) -> tuple[Any, int]:
        if not hasattr(self._kind, "_length_"):
            raise TypeError(f"{self._kind.__name__!r} object has no items")
        return self._kind._type_, self._kind._length_

    def _kind_of(self, name: str) -> Any:
        """Return the type of an attribute; None if it is ``value`` or ``raw``.

        Raises:
            AttributeError: there is no such attribute.
        """
        kind = field_type(self._kind, name)
        if kind is None and not (name in ("value", "raw") and hasattr(self._kind, name)):
            raise AttributeError(f"{self._kind.__name__!r} object has no attribute {name!r}")
        return kind


def _plain(value: Any) -> Any:
    """Return a value that is assigned in the form in which it travels: the parent unpickles built-in types only."""
    if type(value) in (tuple, list):
        return type(value)(map(_plain, value))
    if type(type(value)).__module__ != "_ctypes":
        return value
    return bytes(value) if is_composite(type(value)) else value.value


class RawOwner(StandIn):
    """Keeps a `RawValue` or `RawArray` of the parent while a slot uses it, and sends the requests for it."""

    ORIGINAL = ("multiprocessing.sharedctypes", "RawValue")


def raw_value(client: Requests, number: int, detail: Any) -> Any:
    """Return a value or array without a lock: the memory itself on the parent's machine, a stand-in elsewhere."""
    kind, place = detail
    owner, memory = RawOwner(client, number, None), mapped(place)
    if memory is None:
        return MemoryPart(owner, kind, False)
    found = kind.from_buffer(memory)
    # The name that multiprocessing uses. The owner refuses to be pickled, and the parent keeps the memory for it.
    found._wrapper = owner  # noqa: SLF001
    return found
