"""The layout of a payload.

A payload that is a single pickle travels as that pickle: its first byte is pickle's own 0x80. Any other payload is a
box, whose first byte is below 0x80:

    tag, flags                                         2 bytes
    number of buffers that belong to the definitions   2 bytes
    number of buffers, those included                  4 bytes
    length of the definitions                          8 bytes
    length of the body                                 8 bytes
    length of each buffer; the top bit says writable   8 bytes each
    definitions, body
    each buffer, at a multiple of 64 bytes from the payload's start

The most frequent other payload is a call of a function in an importable ``__main__``. It has a short form: one byte,
then the pickle.
"""

from __future__ import annotations

from struct import Struct, error

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol
from dragonfly_executor.util.plain_pickle import PickleBuffer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, TypeAlias

    Buffer: TypeAlias = bytes | memoryview
    Received: TypeAlias = bytes | bytearray | memoryview

PICKLE = 0x80  # pickle's own first byte: not a box
BOX = 0x01
MAIN_CALL = 0x02

# Flags of a box.
NEEDS_MAIN = 0x01  # the body refers to the script's own module, which must exist before the body is opened
BY_DILL = 0x02
BY_CUSTOM = 0x04
BY_NAME = 0x08  # the body's function is a name in __main__
WITH_PATH = 0x10  # the definitions begin with the parent's import path: its length in 8 bytes, then its pickle
WITH_SHARED = 0x20  # the definitions begin, before the path, with a table of shared objects: its length, then the table
BY_CODE = 0x40  # the body begins with the function's code; see `function_call`
READ_ONLY = 0x80  # the object gets its buffers as read-only views

_HEAD = Struct("<BBHI")
_LENGTH = Struct("<Q")
_EMPTY_HEAD = Struct("<BBHIQQ")
"""The head of a box without buffers."""
_WRITABLE = 1 << 63
ALIGN = 64
# A smaller buffer is cheaper inside the pickle than beside it.
IN_BAND_BELOW = 4096
_FRAME = 64 * 1024
"""Size in bytes from which pickle writes content beside its frames."""
_FRAME_BEGINS = b"\x80\x95"  # PROTO, which comes before the first frame, and FRAME
_JOINED = 32 * 1024
"""Size of the largest body that is joined with its head at once."""


class BufferSource(Protocol):
    """A buffer of a box that lies elsewhere."""

    def view(self) -> memoryview | bytearray:
        """Return bytes that one call may write to. Each call gets what was sent."""
        ...

    def constant(self) -> memoryview:
        """Return read-only bytes, which may be the same memory for all calls."""
        ...


NOTHING: dict[int, BufferSource] = {}


class Sink(list["Any"]):
    """The file that a C pickler writes to. It collects the pieces without copying them.

    Small pieces arrive joined. A large ``bytes`` object arrives as the very object that is being pickled.
    """

    write = list.append

    def mentions(self, marks: Iterable[bytes]) -> bool:
        """Return whether one of the marks occurs in the pickle, apart from the content of large objects.

        A search takes ten times as long as a copy, and names in the content of an object refer to nothing.
        """
        # A piece of opcodes is this large only as a frame: large content is written beside frames, as it is.
        pieces = [piece for piece in self if len(piece) < _FRAME or piece[0] in _FRAME_BEGINS]
        return any(mark in piece for mark in marks for piece in pieces)


def with_part(part: bytes, definitions: bytes) -> bytes:
    """Prepend a pickled import path, or a table of shared objects, to definitions."""
    return b"".join((_LENGTH.pack(len(part)), part, definitions))


def split_part(definitions: memoryview) -> tuple[bytes, memoryview]:
    """Split the result of `with_part` into the part and the definitions."""
    (size,) = _LENGTH.unpack_from(definitions)
    end = _LENGTH.size + size
    return bytes(definitions[_LENGTH.size : end]), definitions[end:]


def shared_table(data: Received) -> bytes:
    """Return the table of shared objects of a payload; empty if the payload has none.

    Raises:
        ValueError: the payload is cut short.
    """
    if data[0] != BOX or not data[1] & WITH_SHARED:
        return b""
    whole = memoryview(data)
    try:
        count = _HEAD.unpack_from(whole)[3]
        start = 8 * (3 + count)
        end = start + _LENGTH.unpack_from(whole, 8)[0]
        return split_part(whole[start:end])[0]
    except error as exc:
        raise ValueError("the payload is cut short") from exc


def has_buffers(data: Received) -> bool:
    """Return whether objects of this payload may be views of its bytes."""
    return data[0] == BOX and (len(data) < _HEAD.size or _HEAD.unpack_from(data)[3] != 0)


class Buffers:
    """The buffers that travel beside a pickle (PEP 574).

    Args:
        least: size in bytes of the smallest such buffer.
    """

    __slots__ = ("_least", "views")

    def __init__(self, least: int = IN_BAND_BELOW) -> None:
        self._least = least
        self.views: list[memoryview] = []

    def add(self, buffer: PickleBuffer) -> bool:
        """Collect a buffer. A pickler's ``buffer_callback``: True keeps the buffer inside the pickle."""
        view = buffer.raw()
        if view.nbytes < self._least:
            return True
        self.views.append(view)
        return False


def snapshot(pieces: Iterable[bytes | bytearray | memoryview]) -> list[Buffer]:
    """Return the pieces, with a copy of each piece that its owner can still change."""
    return [piece if type(piece) is bytes or _frozen(piece) else _copy(piece) for piece in pieces]  # type: ignore[misc]


def views(pieces: Iterable[bytes | bytearray | memoryview]) -> list[Buffer]:
    """Return the pieces without a copy."""
    return [piece if type(piece) is bytes else memoryview(piece).cast("B") for piece in pieces]


def _copy(piece: bytes | bytearray | memoryview | PickleBuffer) -> bytes:
    # A large in-band buffer arrives as a PickleBuffer. Its bytes are needed as they lie in memory.
    return bytes(piece.raw() if isinstance(piece, PickleBuffer) else piece)


def _frozen(piece: bytes | bytearray | memoryview) -> bool:
    # A read-only view of writable memory may still change. It counts as constant, because numpy's own rule for
    # read-only arrays is the same.
    return isinstance(piece, memoryview) and piece.readonly


def flat(pieces: Iterable[bytes | bytearray | memoryview | PickleBuffer]) -> list[Buffer]:
    """Return the pieces that a pickler wrote, without a copy, each as its bytes lie in memory."""
    # A large in-band buffer arrives as a PickleBuffer.
    return [
        piece if type(piece) is bytes else (piece if isinstance(piece, PickleBuffer) else PickleBuffer(piece)).raw()
        for piece in pieces
    ]


def is_joined(whole: bytes, pieces: Iterable[Buffer]) -> bool:
    """Return whether `join` of the pieces is `whole`, without a copy."""
    place = 0
    for piece in pieces:
        # Not `==`, which takes a memoryview item by item.
        if not whole.startswith(piece, place):
            return False
        place += len(piece)
    return place == len(whole)


def join(pieces: Iterable[Buffer]) -> bytes:
    """Join the pieces into one bytes object."""
    return b"".join(pieces)


def pack(
    flags: int, definitions: bytes, body: list[Buffer], buffers: list[memoryview], copy: bool, first: int = 0
) -> list[Buffer]:
    """Return a box as the list of its pieces.

    Args:
        flags: what the far side must know to open the body.
        definitions: the pickled definitions, or b"".
        body: the pieces of the body's pickle.
        buffers: the out-of-band buffers of the definitions and of the body.
        copy: whether to snapshot writable buffers, because their owner goes on using them.
        first: how many of the buffers belong to the definitions; they come first.
    """
    size = sum(map(len, body))
    if not buffers:
        alone = [_EMPTY_HEAD.pack(BOX, flags, 0, 0, len(definitions), size), definitions, *body]
        return alone if size > _JOINED else [b"".join(alone)]
    head = [_HEAD.pack(BOX, flags, first, len(buffers)), _LENGTH.pack(len(definitions)), _LENGTH.pack(size)]
    head += [_LENGTH.pack(view.nbytes | (0 if view.readonly else _WRITABLE)) for view in buffers]
    head.append(definitions)
    pieces: list[Buffer] = [b"".join(head), *body]
    position = len(pieces[0]) + size
    for view, held in zip(buffers, snapshot(buffers) if copy else buffers, strict=True):
        padding = -position % ALIGN
        if padding:
            pieces.append(bytes(padding))
        pieces.append(held)
        position += padding + view.nbytes
    return pieces


def unpack(data: Received) -> tuple[int, memoryview, memoryview, list[bytearray | memoryview]]:
    """Unpack a box like `unpack_all`, without the buffers of the definitions."""
    flags, definitions, body, buffers, first = unpack_all(data)
    return flags, definitions, body, buffers[first:]


def body_of(data: Received) -> memoryview:
    """Return the body of a box, without a copy.

    Raises:
        struct.error: the payload is cut short.
    """
    whole = memoryview(data)
    _, _, _, count, definitions, size = _EMPTY_HEAD.unpack_from(whole)
    start = _EMPTY_HEAD.size + _LENGTH.size * count + definitions
    return whole[start : start + size]


def hole(size: int) -> int:
    """Return the bytes that a buffer takes in a box if it lies elsewhere: those after it stay at multiples of 64."""
    return size % ALIGN


def unpack_all(
    data: Received, beside: Mapping[int, BufferSource] = NOTHING
) -> tuple[int, memoryview, memoryview, list[bytearray | memoryview], int]:
    """Take a box apart.

    Buffers are slices of ``data``. A writable buffer is copied if ``data`` is read-only, unless the box has the flag
    `READ_ONLY`: then all are read-only.

    Args:
        data: the box.
        beside: the buffers that lie elsewhere, by their place in the box. Each leaves a hole there.

    Returns:
        Flags, definitions, body, buffers, and how many of the buffers belong to the definitions.

    Raises:
        ValueError: the payload is not a whole box.
    """
    whole = memoryview(data)
    try:
        _, flags, first, count, definitions, size = _EMPTY_HEAD.unpack_from(whole)
        if not count:
            body = _EMPTY_HEAD.size + definitions
            if body + size > len(whole):
                raise ValueError("the payload is cut short")
            return flags, whole[_EMPTY_HEAD.size : body], whole[body : body + size], [], 0
        lengths = [length for (length,) in _LENGTH.iter_unpack(whole[8 : 8 * (3 + count)])]
    except error as exc:
        raise ValueError("the payload is cut short") from exc
    if len(lengths) != count + 2:
        raise ValueError("the payload is cut short")
    position = 8 * (3 + count)
    body = position + lengths[0]
    end = body + lengths[1]
    buffers: list[bytearray | memoryview] = []
    tail, absent = end, 0
    for length in lengths[2:]:
        size = length & ~_WRITABLE
        tail += -tail % ALIGN
        is_written = length & _WRITABLE and not flags & READ_ONLY
        if tail in beside:
            buffers.append(beside[tail].view() if is_written else beside[tail].constant())
            absent += size - hole(size)
        else:
            view = whole[tail - absent : tail - absent + size]
            if flags & READ_ONLY:
                view = view.toreadonly()
            buffers.append(bytearray(view) if is_written and view.readonly else view)
        tail += size
    if tail - absent > len(whole):
        raise ValueError("the payload is cut short")
    return flags, whole[position:body], whole[body:end], buffers, first
