"""The table of a call's pieces: large parts of its payload that a runner gets once, and that do not travel with it.

The table precedes the payload of a CALL with `Flag.PIECES`. A piece has a number, by which the agent requests it from
the parent, like a shared object. A piece is one of two kinds:

- A piece *beside* is a buffer of the box. The payload has a hole in its place, as one in shared memory has.
- A piece *inside* is a part of the payload's pickle. The slot inserts its bytes.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable
from struct import Struct, error

_COUNT = Struct("!B")
_ENTRY = Struct("!QQQ")
_BESIDE = 1 << 63
MOST_PIECES = 64
"""Maximum number of pieces of one payload."""


class PieceEntry(namedtuple("PieceEntry", "number place size is_beside")):  # noqa: PYI024
    """One piece.

    Attributes:
        number: its number in the pool.
        place: where it begins in the payload, counted with all pieces, in bytes.
        size: its size in bytes.
        is_beside: whether it is a buffer beside the pickle.
    """

    __slots__ = ()
    number: int
    place: int
    size: int
    is_beside: bool


def pack_table(entries: Iterable[PieceEntry]) -> bytes:
    """Return the table of these pieces, in the order of their places."""
    packed = [
        _ENTRY.pack(number, place, size | (_BESIDE if is_beside else 0)) for number, place, size, is_beside in entries
    ]
    return _COUNT.pack(len(packed)) + b"".join(packed)


def split_table(body: bytes | bytearray | memoryview) -> tuple[list[PieceEntry], memoryview]:
    """Split the body of a CALL into the pieces and the rest.

    Raises:
        ValueError: the table is cut short.
    """
    view = memoryview(body)
    try:
        (count,) = _COUNT.unpack_from(view)
        end = _COUNT.size + count * _ENTRY.size
        if end > len(view):
            raise ValueError("a table of pieces that is cut short")
        entries = [
            PieceEntry(number, place, size & ~_BESIDE, bool(size & _BESIDE))
            for number, place, size in _ENTRY.iter_unpack(view[_COUNT.size : end])
        ]
    except error:
        raise ValueError("a table of pieces that is cut short") from None
    return entries, view[end:]
