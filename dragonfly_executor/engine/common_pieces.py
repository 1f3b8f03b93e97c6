"""Large buffers that calls have in common: each lies once in shared memory, and all calls and slots use that.

These are the pickles of large globals, the arrays that functions have captured, and arrays that are passed again. A
buffer is known by its content, so a changed buffer counts as another one.
"""

from __future__ import annotations

from ctypes import CDLL, addressof, c_char, c_int, c_size_t, c_void_p
from time import monotonic
from weakref import WeakValueDictionary

from dragonfly_executor.protocol.piece_table import MOST_PIECES
from dragonfly_executor.serialization.layout import hole
from dragonfly_executor.serialization.payload_parts import source_of
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragonfly_executor.serialization.payload_parts import PayloadParts
    from dragonfly_executor.transport.segment_pool import Block
    from dragonfly_executor.transport.sockets import Buffer

LEAST = 4 * 1024 * 1024
"""Smallest size in bytes of a buffer that is looked up. Copying a smaller one takes less time."""
SHARE = 2
"""Divisor of the pool's shared memory: the bytes that may be kept for later calls."""
_MET = 256
_SAMPLES = 64
_SAMPLE = 1024
_LONGEST_WAIT = 64

_compare = CDLL(None).memcmp
_compare.argtypes = c_void_p, c_void_p, c_size_t
_compare.restype = c_int


class CommonPiece:
    """A buffer in a segment of its own, which nothing writes to any more.

    Args:
        block: the only block of the segment.
        size: bytes of the buffer.
        source: the object that never changes and has these bytes; None if unknown.
    """

    __slots__ = ("__weakref__", "block", "size", "source", "used")

    def __init__(self, block: Block, size: int, source: object | None) -> None:
        self.block = block
        self.size = size
        self.source = source
        self.used = monotonic()

    def view(self) -> memoryview:
        """Return the bytes.

        Raises:
            MemoryError: there is no address space for them.
        """
        return self.block.view()[: self.size]


class CommonPieces:
    """The common buffers of one pool. Any thread may use it; no step needs a lock.

    Args:
        publish: copies a buffer into a segment of its own, and returns its block; None if there is no room.
        limit: most bytes that are kept while no call uses them.
    """

    def __init__(self, publish: Callable[[Buffer], Block | None], limit: int) -> None:
        self._publish = publish
        self._limit = limit
        self._found: WeakValueDictionary[object, CommonPiece] = WeakValueDictionary()
        """Those that are kept, or that a call uses."""
        self._kept: dict[object, CommonPiece] = {}
        """The least recently used first."""
        self._waits: dict[object, int] = {}
        """Times that a buffer has to come again until it counts as common, by its key."""
        self._doubts: dict[object, int] = {}
        """Times that it had to come again at first, if other content had the same key."""

    def split(self, parts: PayloadParts) -> tuple[list[Buffer], int, list[tuple[int, CommonPiece]]]:
        """Take the common buffers out of a payload.

        Returns:
            The pieces, with holes instead of these buffers; their size in bytes; of each buffer the place of its hole
            among the pieces, and the buffer.
        """
        found, size = self.find(parts), 0
        left: list[Buffer] = [*parts]
        beside: list[tuple[int, CommonPiece]] = []
        for index, part in enumerate(parts):
            if index in found:
                beside.append((size, found[index]))
                left[index] = bytes(hole(len(part)))
            size += len(left[index])
        return left, size, beside

    def find(self, parts: PayloadParts) -> dict[int, CommonPiece]:
        """Return the common buffers among the pieces of a payload, by the index of the piece."""
        found: dict[int, CommonPiece] = {}
        for index in range(parts.buffers_from, len(parts)):
            part = parts[index]
            if len(part) < LEAST or len(found) == MOST_PIECES:
                continue
            source = source_of(part)
            piece = self._changeable(part) if source is None else self._constant(part, source)
            if piece is not None:
                found[index] = piece
        return found

    def _constant(self, part: Buffer, source: object) -> CommonPiece | None:
        """Return the piece of an object that never changes, which its owner sends with many calls."""
        key = id(source)
        piece = self._found.get(key)
        if piece is None or piece.source is not source:
            return self._made(key, part, source)
        return self._use(key, piece)

    def _changeable(self, part: Buffer) -> CommonPiece | None:
        """Return the piece with the content of a buffer, if it has come before; None for a read-only one."""
        if type(part) is not memoryview or part.readonly:
            return None
        key = _key(part)
        piece = self._found.get(key)
        if piece is not None:
            if _is_equal(piece, part):
                return self._use(key, piece)
            # Something has changed between the samples, and may do so before each call.
            self._kept.pop(key, None)
            self._doubts[key] = self._waits[key] = min(2 * self._doubts.get(key, 1), _LONGEST_WAIT)
        left = self._waits.get(key, 1)
        if left > 0:
            if len(self._waits) >= _MET:
                self._waits.clear()
                self._doubts.clear()
            self._waits[key] = left - 1
            return None
        piece = self._made(key, part, None)
        # It has been copied while its owner could write to it.
        return piece if piece is not None and _is_equal(piece, part) else None

    def _made(self, key: object, part: Buffer, source: object | None) -> CommonPiece | None:
        size = len(part)
        if size > self._limit:
            return None
        block = self._publish(part)
        if block is None:
            return None
        piece = self._found[key] = CommonPiece(block, size, source)
        return self._use(key, piece)

    def _use(self, key: object, piece: CommonPiece) -> CommonPiece:
        piece.used = monotonic()
        self._kept.pop(key, None)
        self._kept[key] = piece
        excess = sum(piece.size for piece in list(self._kept.values())) - self._limit
        for old, other in list(self._kept.items()):
            if excess <= 0:
                break
            self._kept.pop(old, None)
            excess -= other.size
        return piece

    def trim(self, until: float = float("inf")) -> bool:
        """Keep no buffer any more that was not used since `until`, in monotonic seconds, except while a call uses it.

        Returns:
            True if some are kept.
        """
        for key, piece in list(self._kept.items()):
            if piece.used <= until:
                self._kept.pop(key, None)
        return bool(self._kept)


def _key(part: memoryview) -> object:
    """Return what tells most buffers apart: the size, and a hash of samples."""
    step = (len(part) - _SAMPLE) // (_SAMPLES - 1)
    return len(part), hash(b"".join([part[number * step : number * step + _SAMPLE] for number in range(_SAMPLES)]))


def _is_equal(piece: CommonPiece, part: memoryview) -> bool:
    """Compare without the interpreter lock, and not item by item as `==` does."""
    try:
        ours, theirs = c_char.from_buffer(piece.view()), c_char.from_buffer(part)
    except (MemoryError, TypeError, ValueError):
        return False
    return piece.size == len(part) and _compare(addressof(ours), addressof(theirs), piece.size) == 0
