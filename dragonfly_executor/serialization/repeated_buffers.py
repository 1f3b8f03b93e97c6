"""The large pieces that payloads have in common: each runner elsewhere gets such a piece once, as a content.

A piece is the pickle of a global, what a function carries, or a large argument. Its content identifies a piece, so a
changed piece is a new piece.
"""

from __future__ import annotations

from weakref import WeakValueDictionary

from dragonfly_executor.protocol.piece_table import MOST_PIECES
from dragonfly_executor.protocol.shared_entries import IN_AGENT, NO_DIGEST, SharedEntry
from dragonfly_executor.serialization.payload_parts import LEAST, as_parts, constant_of, source_of
from dragonfly_executor.serialization.shared_object import SharedContent
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from dragonfly_executor.serialization.content_registry import ContentRegistry
    from dragonfly_executor.serialization.layout import Buffer, Received

    Key = tuple[int, int]

MOST = 256 * 1024 * 1024
"""Bytes of pieces that one pool keeps for later calls."""
_MET = 256
_SAMPLES = 64
_SAMPLE = 1024


class PieceBytes:
    """The bytes of a piece.

    Args:
        data: the bytes.
        source: the object that never changes and has these bytes; None if unknown.
    """

    __slots__ = ("data", "source")

    def __init__(self, data: bytes, source: object | None) -> None:
        self.data = data
        self.source = source

    def view(self) -> memoryview:
        """Return the bytes."""
        return memoryview(self.data)

    def close(self) -> None:
        """Do nothing: a call may be encoded while its pool ends, and payloads refer to the bytes as well."""


class RepeatedBuffers:
    """The parent's table of pieces that payloads have in common. One thread at a time.

    A piece counts as common from its second use on, unless its owner says that more uses follow. A payload keeps its
    pieces, and the table keeps some for later calls: the least recently used go first.

    Args:
        registry: gets the contents.
        most: bytes of pieces that are kept while no payload needs them. Larger pieces live only with their payloads.
    """

    def __init__(self, registry: ContentRegistry, most: int = MOST) -> None:
        self._registry = registry
        self._most = most
        self._met: dict[Key, None] = {}
        self._numbers: dict[Key, list[int]] = {}
        """The numbers of the pieces by what tells most contents apart."""
        self._found: WeakValueDictionary[int, SharedContent] = WeakValueDictionary()
        self._kept: dict[int, SharedContent] = {}
        """The pieces that are kept for later calls, the least recently used first."""

    def mark(self, parts: list[Buffer], start: int = 0, recurring: Container[int] = ()) -> list[Buffer]:
        """Return the pieces, as `PayloadParts` if runners get some of them once.

        Args:
            parts: the payload.
            start: see `PayloadParts.buffers_from`.
            recurring: the indices of the pieces that will be sent again: these are common from their first use on.
        """
        marked = as_parts(parts)
        marked.buffers_from = start
        for index, part in enumerate(parts):
            if not _is_constant(part) or len(marked.pieces) == MOST_PIECES:
                continue
            content = self._content(part, at_once=index in recurring)
            if content is not None:
                marked[index] = _data_of(content)
                marked.pieces[index] = content
        return marked if marked.pieces else parts

    def known(self, parts: Sequence[Received]) -> list[Received]:
        """Return the pieces. One that is not a bytes object, and whose bytes are known, is replaced by these bytes."""
        return [self._known(part) if len(part) >= LEAST else part for part in parts]

    def unknown(self, parts: Sequence[Buffer]) -> bool:
        """Return True if there are pieces that were never used."""
        return any(_is_constant(part) and self._find(part) is None for part in parts)

    def _known(self, part: Received) -> Received:
        content = self._find(part) if type(part) is memoryview else None
        return part if content is None else _data_of(content)

    def _content(self, piece: Buffer, *, at_once: bool) -> SharedContent | None:
        content = self._find(piece)
        if content is None:
            key = _key(piece)
            if key not in self._met and not at_once:
                if len(self._met) >= _MET:
                    self._met.clear()
                self._met[key] = None
                return None
            try:
                content = self._made(key, piece)
            except MemoryError:
                return None  # the call has the piece itself
        self._keep(content)
        return content

    def _find(self, piece: Buffer) -> SharedContent | None:
        """Return the content with the bytes of a piece; None if there is none."""
        source = source_of(piece)
        if source is not None:
            for content in self._kept.values():
                if _memory_of(content).source is source:
                    return content
        for number in self._numbers.get(_key(piece), ()):
            found = self._found.get(number)
            # Not `==`, which takes a memoryview item by item.
            if found is not None and _data_of(found).startswith(piece):
                return found
        return None

    def _made(self, key: Key, piece: Buffer) -> SharedContent:
        """Make a content of a piece.

        Raises:
            MemoryError: there is no memory for a copy.
        """
        number = self._registry.next_number()
        entry = SharedEntry(number, len(piece), NO_DIGEST, IN_AGENT, 0, b"")
        constant = constant_of(piece)
        memory = PieceBytes(bytes(piece) if constant is None else constant, source_of(piece))
        content = self._found[number] = SharedContent(None, entry, memory, frozenset(), {})
        self._registry.add(content)
        if len(self._numbers) > _MET:
            self._numbers = {key: numbers for key, numbers in self._numbers.items() if self._alive(numbers)}
        self._numbers[key] = [*self._alive(self._numbers.get(key, ())), number]
        return content

    def _alive(self, numbers: Sequence[int]) -> list[int]:
        return [number for number in numbers if number in self._found]

    def _keep(self, content: SharedContent) -> None:
        """Keep a content for later calls, as the most recently used."""
        number, size = content.entry.number, content.entry.size
        if size > self._most:
            return
        self._kept.pop(number, None)
        self._kept[number] = content
        # Added up anew: a Ctrl-C between two steps makes a running sum wrong.
        excess = sum(kept.entry.size for kept in self._kept.values()) - self._most
        for old, kept in [*self._kept.items()]:
            if excess <= 0:
                break
            excess -= kept.entry.size
            del self._kept[old]


def _is_constant(part: Buffer) -> bool:
    """Return True for a large piece that is not written to any more."""
    return len(part) >= LEAST and (type(part) is bytes or (type(part) is memoryview and part.readonly))


def _memory_of(content: SharedContent) -> PieceBytes:
    memory = content.memory
    assert isinstance(memory, PieceBytes)  # noqa: S101  # the table has no other contents
    return memory


def _data_of(content: SharedContent) -> bytes:
    return _memory_of(content).data


def _key(piece: bytes | memoryview) -> Key:
    """Return what tells most contents apart: the size, and a hash of samples."""
    step = (len(piece) - _SAMPLE) // (_SAMPLES - 1)
    return len(piece), hash(b"".join([piece[number * step : number * step + _SAMPLE] for number in range(_SAMPLES)]))
