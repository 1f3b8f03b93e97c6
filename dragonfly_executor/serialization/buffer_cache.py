"""Cache of large pieces that payloads have in common: a slot keeps a piece, so the piece is sent to that slot once.

A piece is the pickle of a global, the contents of a closure, or a large argument. Its content identifies a piece, so a
changed piece is a new piece. The parent and each slot keep `MOST` bytes, and evict the least recently used pieces.
"""

from __future__ import annotations

from struct import Struct

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dragonfly_executor.serialization.layout import Buffer, Received
    from dragonfly_executor.serialization.shared_object import SharedContent

LEAST = 1024 * 1024
"""Smallest size in bytes of a piece that is cached."""
MOST = 256 * 1024 * 1024
"""Bytes that this process caches for one pool, and that each slot caches for itself."""
MOST_PIECES = 64
"""Pieces of one payload that may be cached."""
_MET = 256
_SAMPLE = 4096
_ENTRY = Struct("!QQQ")  # key, offset in the payload, size
_SKIPPED = Struct("!Q")


class PayloadParts(list["Buffer"]):
    """The pieces of a payload.

    Attributes:
        kept: the key of each piece that slots cache, by its index.
        contents: the shared objects that the payload needs. They are kept while the payload exists.
        buffers_from: the index of the first piece that holds no pickle. All pieces from there on are buffers beside the
            pickle, or padding; 0 if the pieces are not looked at.
    """

    kept: dict[int, int]
    contents: tuple[SharedContent, ...] = ()
    buffers_from = 0

    def table(self) -> bytes:
        """Return the table of cacheable pieces that is sent to a slot ahead of the payload."""
        entries = []
        place = 0
        for index, part in enumerate(self):
            if index in self.kept:
                entries.append(_ENTRY.pack(self.kept[index], place, len(part)))
            place += len(part)
        return b"".join(entries)

    def without(self, answer: memoryview) -> list[Buffer]:
        """Return the pieces that a slot still needs, according to its answer.

        Raises:
            ValueError: the answer is invalid.
        """
        skipped, numbers = read_answer(answer)
        indices = sorted(self.kept)
        if any(number >= len(indices) for number in numbers):
            raise ValueError("a piece that was not announced")
        left_out = {indices[number] for number in numbers}
        if sum(len(self[index]) for index in left_out) != skipped:
            raise ValueError("pieces of another size")
        return [part for index, part in enumerate(self) if index not in left_out]


class HoldingBytes(bytes):
    """A small payload. `contents` are the shared objects that it needs: they are kept while the payload exists."""

    contents: tuple[SharedContent, ...] = ()


def with_buffers(parts: list[Buffer], start: int) -> list[Buffer]:
    """Return the pieces of a payload whose buffers begin at the index `start`, as `PayloadParts` if one is large."""
    if max(map(len, parts)) < LEAST:
        return parts
    marked = PayloadParts(parts)
    marked.kept = {}
    marked.buffers_from = start
    return marked


def holding_contents(parts: list[Buffer], contents: tuple[SharedContent, ...]) -> PayloadParts:
    """Return a payload that keeps these shared objects."""
    held = parts if isinstance(parts, PayloadParts) else PayloadParts(parts)
    if held is not parts:
        held.kept = {}
    held.contents = contents
    return held


def joined(parts: Sequence[Buffer | bytearray]) -> bytes:
    """Join the pieces of a small payload. The result keeps the shared objects of the payload."""
    if not isinstance(parts, PayloadParts) or not parts.contents:
        return b"".join(parts)
    payload = HoldingBytes(b"".join(parts))
    payload.contents = parts.contents
    return payload


def read_table(table: memoryview) -> list[tuple[int, int, int]]:
    """Return the key, offset and size of each piece that may be cached here."""
    return list(_ENTRY.iter_unpack(table))


def write_answer(skipped: int, numbers: list[int]) -> bytes:
    """Encode a slot's answer: which pieces of the table it has cached, and how many bytes that saves."""
    return _SKIPPED.pack(skipped) + bytes(numbers)


def read_answer(answer: memoryview) -> tuple[int, list[int]]:
    """Return the number of bytes that need not be sent, and the numbers of their pieces.

    Raises:
        ValueError: the answer is cut short.
    """
    if len(answer) < _SKIPPED.size:
        raise ValueError("an answer that is cut short")
    return _SKIPPED.unpack_from(answer)[0], list(answer[_SKIPPED.size :])


class RepeatedBuffers:
    """The parent's table of pieces that payloads have in common. One thread at a time.

    A piece is cached from its second use on. Its first use costs only a hash of some of its bytes.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._size = 0
        self._next = 1
        self._met: dict[tuple[int, int], None] = {}
        self._kept: dict[int, bytes] = {}
        """Pieces by key, the least recently used first."""

    def mark(self, parts: list[Buffer], lasting: list[memoryview]) -> list[Buffer]:
        """Return the pieces, as `PayloadParts` if slots cache some of them.

        Args:
            parts: the payload.
            lasting: the pieces that will be sent again: they are cached from their first use on.
        """
        marked = PayloadParts(parts)
        marked.kept = {}
        for index, part in enumerate(parts):
            piece = constant_of(part) if len(part) >= LEAST else None
            if piece is None or len(piece) > self._most or len(marked.kept) == MOST_PIECES:
                continue
            key = self._key(piece, at_once=any(part is one for one in lasting))
            if key is not None:
                marked[index] = self._kept[key]
                marked.kept[index] = key
        return marked if marked.kept else parts

    def known(self, parts: Sequence[Received]) -> list[Received]:
        """Return the pieces. A writable piece whose bytes are cached is replaced by them, to save the copy."""
        return [self._known(part) if len(part) >= LEAST else part for part in parts]

    def _known(self, part: Received) -> Received:
        if type(part) is memoryview and not part.readonly:
            for kept in self._kept.values():
                # Not `==`, which takes a memoryview item by item.
                if len(kept) == part.nbytes and kept.startswith(part):
                    return kept
        return part

    def _key(self, piece: bytes, *, at_once: bool) -> int | None:
        for key, kept in self._kept.items():
            if kept is piece or (len(kept) == len(piece) and kept == piece):
                self._kept[key] = self._kept.pop(key)
                return key
        middle = len(piece) // 2
        looked_at = piece[:_SAMPLE] + piece[middle : middle + _SAMPLE] + piece[-_SAMPLE:]
        sample = (len(piece), hash(looked_at))
        if sample not in self._met and not at_once:
            if len(self._met) >= _MET:
                self._met.clear()
            self._met[sample] = None
            return None
        key, self._next = self._next, self._next + 1
        self._kept[key] = piece
        self._size += len(piece)
        for old in _too_many(self._kept, self._size - self._most):
            self._size -= len(self._kept.pop(old))
        return key


class BufferCache:
    """The pieces that a slot has cached. One thread."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._size = 0
        self._pieces: dict[int, bytes] = {}

    def get(self, key: int, size: int) -> bytes | None:
        """Return the piece, or None if it is not cached."""
        piece = self._pieces.pop(key, None)
        if piece is None:
            return None
        self._pieces[key] = piece
        return piece if len(piece) == size else None

    def keep(self, key: int, piece: memoryview) -> None:
        """Cache a copy, because calls may write into their arguments. Without memory for a copy, cache nothing."""
        if len(piece) > self._most or key in self._pieces:
            return
        try:
            self._pieces[key] = bytes(piece)
        except MemoryError:
            return
        self._size += len(piece)
        for old in _too_many(self._pieces, self._size - self._most):
            self._size -= len(self._pieces.pop(old))


def _too_many(pieces: dict[int, bytes], excess: int) -> list[int]:
    """Return the keys of the least recently used pieces that together hold at least `excess` bytes."""
    found = []
    for key, piece in pieces.items():
        if excess <= 0:
            break
        found.append(key)
        excess -= len(piece)
    return found


def segments(total: int, had: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each part of a payload that is still to be received.

    Args:
        total: the size of the payload in bytes.
        had: the offset and size of each piece that is cached here.
    """
    start = 0
    for place, size in sorted(had):
        if start < place:
            yield start, place
        start = place + size
    if start < total:
        yield start, total


def constant_of(part: Buffer) -> bytes | None:
    """Return the bytes object behind a piece, without a copy; None if the piece may still be written to."""
    if type(part) is bytes:
        return part
    if type(part) is memoryview and type(part.obj) is bytes and part.nbytes == len(part.obj):
        return part.obj
    return None
