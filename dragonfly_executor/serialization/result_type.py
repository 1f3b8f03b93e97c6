"""Tells the type of a payload's object without opening it: no user code is imported or run."""

from __future__ import annotations

import sys
from itertools import repeat

from dragonfly_executor.serialization import rebuild
from dragonfly_executor.serialization.layout import BOX, BY_CUSTOM, BY_DILL, PICKLE, unpack
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.plain_pickle import Unpickler

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from dragonfly_executor.serialization.layout import Received

MOST = 64 * 1024
"""Largest pickle in bytes that is examined: this takes some milliseconds at most."""


def result_type(data: Received) -> str | None:
    """Return the name of the type of a result; None if it is unknown before the result is opened."""
    try:
        body: Any = data
        buffers: Iterable[Any] = ()
        if data[0] == BOX:
            flags, _, body, _ = unpack(data)
            if flags & (BY_DILL | BY_CUSTOM):
                return None
            buffers = repeat(memoryview(b""))
        elif data[0] != PICKLE:
            return None
        return None if len(body) > MOST else _name(_TypeUnpickler(_File(body), buffers=buffers).load())
    except Exception:  # a foreign pickle, or one that stand-ins cannot serve
        return None


def error_type(data: Received) -> str | None:
    """Return the name of the type of an exception, as `exceptions.decode` returns it; None if it is unknown."""
    if len(data) > 16 * MOST:
        return None
    try:
        name, _, _, whole, *_ = _TypeUnpickler(_File(data)).load()
        return "RemoteCallError" if whole is None else str(name).rpartition(".")[2]
    except Exception:
        return None


def error_text(data: Received) -> str | None:
    """Return the traceback of an exception as its slot has formatted it; None if it is unknown."""
    if len(data) > 16 * MOST:
        return None
    try:
        _, _, traceback, *_ = _TypeUnpickler(_File(data)).load()
        return str(traceback)
    except Exception:
        return None


class _File:
    """A file that reads from bytes without copying them first."""

    def __init__(self, data: Received) -> None:
        self._view = memoryview(data)

    def read(self, size: int = -1) -> bytes:
        """Return the next `size` bytes."""
        piece, self._view = self._view[:size], self._view[size:]
        return bytes(piece)

    def readline(self) -> bytes:
        """Refuse: protocol 5 has no lines."""
        raise EOFError


class _Kind(type):
    """The metaclass of stand-ins for the user's types."""

    is_class = True

    def __call__(cls, *args: Any, **_: Any) -> Any:
        """Return an instance of the type that this call makes; of `_Unknown` if this stands for an unknown function."""
        made: Any = cls
        if not cls.is_class:
            made = _MAKERS.get(cls.__name__, _Unknown)
            if "reconstruct" in cls.__name__ and args and isinstance(args[0], _Kind):
                made = args[0]
        return object.__new__(made)


class _StandIn(metaclass=_Kind):
    """A stand-in that accepts everything that an unpickler does to an object."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        return

    def __setitem__(self, key: Any, value: Any) -> None:
        return

    def append(self, value: Any) -> None:
        """Do nothing."""

    def extend(self, values: Any) -> None:
        """Do nothing."""


class _Unknown(_StandIn):
    """The result of an unknown function."""


class _TypeUnpickler(Unpickler):
    """An unpickler that makes stand-ins for all objects that are not plain data."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a stand-in."""
        if (module, name) == (rebuild.__name__, "main_attribute"):
            return _kind
        # Loaded modules tell classes, whose call makes an instance, from functions.
        found = vars(sys.modules.get(module, rebuild)).get(name)
        return _kind(name, is_class=isinstance(found, type))


def _kind(name: str, *, is_class: bool = True) -> Any:
    return _Kind(name.rpartition(".")[2], (_StandIn,), {"is_class": is_class})


_MAKERS = {"_frombuffer": _kind("ndarray"), "text_of": _kind("str"), "decoded_text": _kind("str")}
"""Types that known functions make, by function name. numpy makes most arrays by `_frombuffer`, and we large texts."""


def _name(value: Any) -> str | None:
    kind = type(value)
    # A stand-in class is a class with an unknown metaclass, or a function.
    return None if kind is _Unknown or kind is _Kind else kind.__name__
