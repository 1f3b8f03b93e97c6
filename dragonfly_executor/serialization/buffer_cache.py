"""Large pieces that payloads have in common: a slot that has been sent one keeps it, and is not sent it again.

A piece is the pickle of a global, what a closure holds, or a large argument. It is known by its content: a piece that
has been changed is another one. Parent and slots keep `MOST` bytes each, and let go of what was used longest ago.
"""

from __future__ import annotations

from struct import Struct

# Type checkers take this name for true. A runner imports this module, and has no other use for typing, which is slow.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dragonfly_executor.serialization.layout import Buffer

LEAST = 1024 * 1024
"""Bytes of a piece that is worth keeping."""
MOST = 256 * 1024 * 1024
"""Bytes that this process keeps for a pool, and each slot for itself."""
MOST_PIECES = 64
"""Pieces of one payload that may be kept."""
_MET = 256
_SAMPLE = 4096
_ENTRY = Struct("!QQQ")  # key, place in the payload, size
_SKIPPED = Struct("!Q")


class Parts(list["Buffer"]):
    """The pieces of a payload; `kept` says which of them slots keep: by its index, a piece's key."""

    kept: dict[int, int]

    def table(self) -> bytes:
        """What a slot is told about these pieces ahead of the payload."""
        entries = []
        place = 0
        for index, part in enumerate(self):
            if index in self.kept:
                entries.append(_ENTRY.pack(self.kept[index], place, len(part)))
            place += len(part)
        return b"".join(entries)

    def without(self, answer: memoryview) -> list[Buffer]:
        """The pieces that a slot still needs, by what it has answered.

        Raises:
            ValueError: the answer makes no sense.
        """
        skipped, numbers = read_answer(answer)
        indices = sorted(self.kept)
        if any(number >= len(indices) for number in numbers):
            raise ValueError("a piece that was not announced")
        left_out = {indices[number] for number in numbers}
        if sum(len(self[index]) for index in left_out) != skipped:
            raise ValueError("pieces of another size")
        return [part for index, part in enumerate(self) if index not in left_out]


def read_table(table: memoryview) -> list[tuple[int, int, int]]:
    """Key, place and size of each piece that may be here already."""
    return list(_ENTRY.iter_unpack(table))


def write_answer(skipped: int, numbers: list[int]) -> bytes:
    """What a slot answers: which of the pieces in the table it has, and how many bytes that saves."""
    return _SKIPPED.pack(skipped) + bytes(numbers)


def read_answer(answer: memoryview) -> tuple[int, list[int]]:
    """The bytes that need not be sent, and which pieces they are; ValueError if that cannot be read."""
    if len(answer) < _SKIPPED.size:
        raise ValueError("an answer that is cut short")
    return _SKIPPED.unpack_from(answer)[0], list(answer[_SKIPPED.size :])


class Repeats:
    """Finds the pieces that payloads have in common. One thread at a time.

    A piece is kept from the second time on: what goes out once costs nothing but a look at some of its bytes.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._size = 0
        self._next = 1
        self._met: dict[tuple[int, int], None] = {}
        self._kept: dict[int, bytes] = {}
        """By key, the one that was used longest ago first."""

    def mark(self, parts: list[Buffer], lasting: list[memoryview]) -> list[Buffer]:
        """The same pieces; as `Parts`, if some of them went out before.

        Args:
            parts: the payload.
            lasting: those of the pieces that will go out again: they are kept from the first time on.
        """
        marked = Parts(parts)
        marked.kept = {}
        for index, part in enumerate(parts):
            piece = _constant(part) if len(part) >= LEAST else None
            if piece is None or len(piece) > self._most or len(marked.kept) == MOST_PIECES:
                continue
            key = self._key(piece, at_once=any(part is one for one in lasting))
            if key is not None:
                marked[index] = self._kept[key]
                marked.kept[index] = key
        return marked if marked.kept else parts

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


class Kept:
    """The pieces that a slot has. One thread."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._size = 0
        self._pieces: dict[int, bytes] = {}

    def get(self, key: int, size: int) -> bytes | None:
        """The piece, if it is here."""
        piece = self._pieces.pop(key, None)
        if piece is None:
            return None
        self._pieces[key] = piece
        return piece if len(piece) == size else None

    def keep(self, key: int, piece: memoryview) -> None:
        """Keep a copy: calls may write into what they are given. Without memory for it, it is not kept."""
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
    """The keys of what was used longest ago, as many as make up for this."""
    found = []
    for key, piece in pieces.items():
        if excess <= 0:
            break
        found.append(key)
        excess -= len(piece)
    return found


def segments(total: int, had: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Start and end of what is still to be received of a payload, of which these places and sizes are here."""
    start = 0
    for place, size in sorted(had):
        if start < place:
            yield start, place
        start = place + size
    if start < total:
        yield start, total


def _constant(part: Buffer) -> bytes | None:
    """The bytes that a piece is, without a copy; None for all that may still be written to."""
    if type(part) is bytes:
        return part
    if type(part) is memoryview and type(part.obj) is bytes and part.nbytes == len(part.obj):
        return part.obj
    return None
