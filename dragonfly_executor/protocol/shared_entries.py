"""The table of shared objects that a call's payload carries: it says where a slot finds each object.

An object of at most `INLINE_SIZE` bytes is in the table itself. A larger object has a number, a size and a place: a
descriptor of the parent's sealed memory, for slots on the parent's machine, or a SHA-256 digest, by which the agent
keeps it as a file, or both. The pieces of payloads, which are in no table, have `IN_AGENT`: the agent keeps them in its
memory.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable
from struct import Struct, error

INLINE_SIZE = 4096
"""Largest size in bytes of an object that travels in the table of each call."""
NO_DIGEST = bytes(32)
NO_DESCRIPTOR = -1
IN_AGENT = -2
PIECE_PLACE = Struct("!QQQ")
"""The place of a piece in the agent's memory: the agent's process id, the descriptor, and the inode of the memory."""
_ENTRY = Struct("!QQ32siQ")
_NUMBER = Struct("!Q")
ENTRIES_AT_ONCE = 4096
"""Maximum number of entries in one SHARED_WANT, and of numbers in one SHARED_FORGET to an agent."""


class SharedEntry(namedtuple("SharedEntry", "number size digest descriptor inode data")):  # noqa: PYI024
    """One shared object.

    Attributes:
        number: its number in the pool, from 1.
        size: its size in bytes.
        digest: its SHA-256, or `NO_DIGEST`.
        descriptor: the descriptor of its memory in the parent, or `NO_DESCRIPTOR`, or `IN_AGENT`.
        inode: the inode of that memory.
        data: the object itself, if it stands in the table; otherwise empty.
    """

    __slots__ = ()
    number: int
    size: int
    digest: bytes
    descriptor: int
    inode: int
    data: bytes

    @property
    def is_inline(self) -> bool:
        """Return True if the object is in the table."""
        return self.descriptor == NO_DESCRIPTOR and self.digest == NO_DIGEST


def pack_entries(entries: Iterable[SharedEntry]) -> bytes:
    """Return the table of these entries."""
    parts: list[bytes] = []
    for number, size, digest, descriptor, inode, data in entries:
        parts += (_ENTRY.pack(number, size, digest, descriptor, inode), data)
    return b"".join(parts)


def read_entries(table: bytes | bytearray | memoryview) -> list[SharedEntry]:
    """Return the entries of a table.

    Raises:
        ValueError: the table is cut short.
    """
    entries = []
    place, view = 0, memoryview(table)
    while place < len(view):
        try:
            entry = SharedEntry._make((*_ENTRY.unpack_from(view, place), b""))
        except error:
            raise ValueError("a table of shared objects that is cut short") from None
        place += _ENTRY.size
        if entry.is_inline:
            data = bytes(view[place : place + entry.size])
            if len(data) < entry.size:
                raise ValueError("a table of shared objects that is cut short")
            entry = entry._replace(data=data)
            place += entry.size
        entries.append(entry)
    return entries


def pack_numbers(numbers: Iterable[int]) -> bytes:
    """Return the payload of a SHARED_FORGET."""
    return b"".join(map(_NUMBER.pack, numbers))


def read_numbers(payload: bytes | bytearray | memoryview) -> list[int]:
    """Return the numbers in a SHARED_FORGET.

    Raises:
        ValueError: the payload is cut short.
    """
    try:
        return [number for (number,) in _NUMBER.iter_unpack(payload)]
    except error:
        raise ValueError("a list of shared objects that is cut short") from None
