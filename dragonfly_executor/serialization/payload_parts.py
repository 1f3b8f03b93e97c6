"""The pieces of a payload, and what a payload keeps alive."""

from __future__ import annotations

from dragonfly_executor.protocol.piece_table import PieceEntry
from dragonfly_executor.serialization.layout import hole
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from dragonfly_executor.serialization.layout import Buffer
    from dragonfly_executor.serialization.shared_object import SharedContent

LEAST = 1024 * 1024
"""Smallest size in bytes of a piece that a runner gets once."""


_WITH_STAND_INS = frozenset({bytes, bytearray, str})


class PayloadParts(list["Buffer"]):
    """The pieces of a payload.

    Attributes:
        pieces: the contents of those pieces that a runner gets once, by their index.
        contents: the shared objects that the payload needs. They are kept while the payload exists.
        held: multiprocessing's objects that the payload refers to. They are kept likewise.
        buffers_from: the index of the first piece that holds no pickle. All pieces from there on are buffers beside the
            pickle, or padding; 0 if there is none.
    """

    pieces: dict[int, SharedContent]
    contents: tuple[SharedContent, ...] = ()
    held: tuple[object, ...] = ()
    buffers_from = 0

    def entries(self) -> list[PieceEntry]:
        """Return what a call says of the pieces that its runner gets once."""
        entries, place = [], 0
        for index, part in enumerate(self):
            if index in self.pieces:
                number = self.pieces[index].entry.number
                entries.append(PieceEntry(number, place, len(part), self._is_beside(index)))
            place += len(part)
        return entries

    def without_pieces(self) -> list[Buffer]:
        """Return the payload without the pieces that its runner gets once."""
        left: list[Buffer] = [*self]
        for index in self.pieces:
            left[index] = bytes(hole(len(self[index]))) if self._is_beside(index) else b""
        return left

    def all_contents(self) -> tuple[SharedContent, ...]:
        """Return all contents that a call with this payload needs on its runner."""
        return (*self.contents, *self.pieces.values())

    def _is_beside(self, index: int) -> bool:
        return 0 < self.buffers_from <= index


class HoldingBytes(bytes):
    """A small payload. It keeps the shared objects and multiprocessing's objects that it needs."""

    contents: tuple[SharedContent, ...] = ()
    held: tuple[object, ...] = ()

    def all_contents(self) -> tuple[SharedContent, ...]:
        """Return all contents that a call with this payload needs on its runner."""
        return self.contents


def with_buffers(parts: list[Buffer], start: int) -> list[Buffer]:
    """Return the pieces of a payload whose buffers begin at the index `start`, as `PayloadParts` if one is large."""
    if max(map(len, parts)) < LEAST:
        return parts
    marked = as_parts(parts)
    marked.buffers_from = start
    return marked


def as_parts(parts: list[Buffer]) -> PayloadParts:
    """Return the pieces as `PayloadParts`."""
    if isinstance(parts, PayloadParts):
        return parts
    made = PayloadParts(parts)
    made.pieces = {}
    return made


def holding_contents(parts: list[Buffer], contents: tuple[SharedContent, ...]) -> PayloadParts:
    """Return a payload that keeps these shared objects."""
    held = as_parts(parts)
    held.contents = contents
    return held


def holding_objects(parts: list[Buffer], held: list[object]) -> PayloadParts:
    """Return a payload that keeps these objects of multiprocessing."""
    made = as_parts(parts)
    made.held = tuple(held)
    return made


def joined(parts: Sequence[Buffer | bytearray]) -> bytes:
    """Join the pieces of a small payload. The result keeps what the payload keeps."""
    if not isinstance(parts, PayloadParts) or not (parts.contents or parts.held):
        return b"".join(parts)
    payload = HoldingBytes(b"".join(parts))
    payload.contents, payload.held = parts.contents, parts.held
    return payload


def stand_in(value: Any) -> Any:
    """Return what is pickled for a value that a function carries: of large bytes and texts, a stand-in."""
    if type(value) in _WITH_STAND_INS and len(value) >= LEAST:
        # Imported at the first large value.
        from dragonfly_executor.serialization.carried_values import STAND_INS

        return STAND_INS[type(value)](value)
    return value


def source_of(part: Buffer) -> object | None:
    """Return the object that never changes and has these bytes: a bytes object, or a text in ASCII; None if unknown."""
    constant = constant_of(part)
    if constant is not None or type(part) is not memoryview:
        return constant
    owner: Any = part.obj
    while type(owner) is memoryview:
        owner = owner.obj
    text = getattr(owner, "text", None)  # see `large_text`
    return text if type(text) is str and len(text) == part.nbytes else None


def constant_of(part: Buffer) -> bytes | None:
    """Return the bytes object behind a piece, without a copy; None if the piece may still be written to."""
    if type(part) is bytes:
        return part
    if type(part) is memoryview and type(part.obj) is bytes and part.nbytes == len(part.obj):
        return part.obj
    return None
