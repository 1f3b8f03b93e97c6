"""Unpickles payloads with large ``bytes`` in them.

`pickle.loads` makes a large ``bytes`` object in new memory, which the kernel maps by pages of 4 KiB as it is written:
that takes several times as long as the copy. An unpickler that reads from a file hands over the new object's memory
to be filled, so the memory can be prepared first.
"""

from __future__ import annotations

from dragonfly_executor.util import large_pages
from dragonfly_executor.util import plain_pickle as pickle
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from dragonfly_executor.serialization.layout import Received

LARGE = large_pages.LARGE
"""Size in bytes from which the memory of an object is prepared. A smaller payload is left to `pickle.loads`."""


class PayloadFile:
    """A pickle in memory, with the methods that an unpickler needs of a file. It copies only into new objects.

    Args:
        data: the pickle.
    """

    def __init__(self, data: Received) -> None:
        self._data = memoryview(data)
        self._place = 0

    def read(self, size: int) -> Any:
        """Return a view of the next `size` bytes, or of the rest: an unpickler takes any buffer."""
        start = self._place
        self._place = min(start + size, len(self._data))
        return self._data[start : self._place]

    def readinto(self, memory: memoryview) -> int:
        """Fill the memory of a new object with the next bytes. Returns their number."""
        large_pages.prepare(memory)
        piece: memoryview = self.read(len(memory))
        memory[: len(piece)] = piece
        return len(piece)

    def readline(self) -> bytes:
        """Return the bytes up to the end of a line. Only pickles of protocol 0 and 1 need it, and calls use 5."""
        rest = bytes(self._data[self._place :])
        line = rest[: rest.find(b"\n") + 1] or rest
        self._place += len(line)
        return line


def loads(data: Received, buffers: Iterable[Any] | None = None) -> Any:
    """Return the object of a pickle, as `pickle.loads` does.

    Args:
        data: the pickle.
        buffers: its out-of-band buffers.
    """
    if len(data) < LARGE:
        return pickle.loads(data, buffers=buffers)
    return pickle.Unpickler(PayloadFile(data), buffers=buffers).load()
