"""Large bytes and texts that functions carry, as captured variables or defaults.

They travel beside the pickle, so that they lie in shared memory once, or on a runner once. A slot makes a ``bytes`` or
``str`` object once for all calls, because it never changes.
"""

from __future__ import annotations

from dragonfly_executor.serialization.large_text import LargeText
from dragonfly_executor.util.constant_memory import ConstantMemory
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.plain_pickle import PickleBuffer

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Data = bytes | bytearray | memoryview


class CarriedBytes:
    """A stand-in for a large ``bytes`` object in what is pickled. It arrives as the object.

    Args:
        data: the object.
    """

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __reduce__(self) -> Any:
        return made_once, (bytes_of, PickleBuffer(self._data))


class CarriedBytearray:
    """A stand-in for a large ``bytearray``. Each call gets one of its own.

    Args:
        data: the object.
    """

    __slots__ = ("_data",)

    def __init__(self, data: bytearray) -> None:
        self._data = data

    def __reduce__(self) -> Any:
        return bytearray, (PickleBuffer(self._data),)


class CarriedText(LargeText):
    """A stand-in for a large ``str``. It arrives as the ``str``."""

    __slots__ = ()

    def __reduce__(self) -> Any:
        make, args = super().__reduce__()
        return made_once, (make, *args)


STAND_INS: dict[type, Callable[[Any], object]] = {
    bytes: CarriedBytes,
    bytearray: CarriedBytearray,
    str: CarriedText,
}


def made_once(make: Callable[[Data], Any], data: Data) -> Any:
    """Return the object that `make` makes of the data. Of constant memory it is made once."""
    if type(data) is memoryview and type(data.obj) is ConstantMemory:
        return data.obj.once(make, data)
    return make(data)


def bytes_of(data: Data) -> bytes:
    """Return the bytes of a buffer."""
    return bytes(data)  # of a bytes object, this is the object itself
