"""The payloads at the slot's end that do not fit into a packet: through shared memory, or in chunks over the stream."""

from __future__ import annotations

import struct
from itertools import pairwise

from dragonfly_executor.protocol.frames import BESIDE, CHUNK_SIZE, SHARED, TOTAL, Flag, Kind, encode
from dragonfly_executor.protocol.piece_table import PieceEntry, split_table
from dragonfly_executor.runner.slot_chunks import SlotChunks
from dragonfly_executor.serialization.layout import NOTHING, hole
from dragonfly_executor.transport.payload_buffer import memory_for
from dragonfly_executor.transport.sockets import SO_RCVTIMEO, SOL_SOCKET, Socket
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dragonfly_executor.runner.agent_stream import AgentStream
    from dragonfly_executor.runner.slot_memory import SlotMemory
    from dragonfly_executor.runner.slot_pieces import SlotPieces
    from dragonfly_executor.serialization.layout import BufferSource
    from dragonfly_executor.transport.codecs import Codecs
    from dragonfly_executor.transport.sockets import Buffer

NOT_INLINE = Flag.LARGE | Flag.SHARED | Flag.PIECES
"""Flags of a call whose packet does not have its whole payload."""
LARGE_WINDOW = 56
"""Chunks of a large call that the slot requests at first. The agent requests more as they pass.

They are on their way at once, so their size over the round-trip time bounds the rate. These fill a link of 1 Gbit/s at
100 ms: 12.5 MB, and the chunks that have passed and are not requested yet. If the slot stops reading, its agent holds
them all (14 MiB).
"""
MEMORY_IDLE = 5
"""Seconds without a call after which a slot gives shared memory back."""


class SlotPayloads:
    """The large payloads of one slot.

    Args:
        agent: the stream to the agent.
        codecs: those that the parent and this runner have.
        calls: the queue of calls. Once the slot shares memory, a receive there times out after `MEMORY_IDLE`.
        rendezvous: the socket at which slots connect to share memory with the parent; None if there is none.
    """

    def __init__(self, agent: AgentStream, codecs: Codecs, calls: Socket, rendezvous: Socket | None) -> None:
        self._agent = agent
        self._codecs = codecs
        self._made_chunks: SlotChunks | None = None
        self._calls = calls
        self._rendezvous = rendezvous
        self._memory: SlotMemory | None = None
        self._pieces: SlotPieces | None = None

    @property
    def _chunks(self) -> SlotChunks:
        """Return the sender and receiver of chunks. Few slots ever need it, and its buffer takes four pages."""
        if self._made_chunks is None:
            self._made_chunks = SlotChunks(self._agent, self._codecs)
        return self._made_chunks

    @property
    def share_memory(self) -> bool:
        """Return whether the slot shares memory with the parent."""
        return self._memory is not None

    def trim(self) -> None:
        """Give back the shared memory that is not in use."""
        if self._memory is not None:
            self._memory.trim()

    def receive(
        self, flags: int, call_id: int, attempt: int, head: Buffer
    ) -> tuple[Buffer, Mapping[int, BufferSource]]:
        """Receive the payload of a call, which the agent can no longer take back.

        Args:
            flags: the flags of the call's frame, one of `NOT_INLINE` among them.
            call_id, attempt: the call.
            head: the payload's place in shared memory, or its size, or the table of its pieces with the rest or its
                size.

        Returns:
            The payload, and its buffers that lie elsewhere; see `layout.unpack_all`.

        Raises:
            MemoryError: there is no memory for it.
            ProtocolError: a chunk cannot be opened.
            ValueError: the table of pieces is cut short.
        """
        if flags & Flag.PIECES:
            return self._receive_pieces(flags, call_id, attempt, head)
        if flags & Flag.LARGE:
            return self._receive_large(call_id, attempt, TOTAL.unpack(head)[0]), NOTHING
        return self._receive_shared(call_id, attempt, head)

    def forget(self, numbers: Iterable[int]) -> None:
        """Drop these pieces: the parent does not have them any more."""
        if self._pieces is not None:
            self._pieces.forget(numbers)

    def send(
        self, call_id: int, attempt: int, microseconds: int, flags: int, parts: list[bytes | memoryview], total: int
    ) -> None:
        """Send a large result. Clears `parts` if the parent may have the result before this returns.

        Args:
            call_id, attempt, microseconds, flags: the fields of the RESULT frame.
            parts, total: the payload, and its size in bytes.
        """
        place = self.put_shared(parts, total)
        if place is None:
            head, flags = TOTAL.pack(total), flags | Flag.LARGE | Flag.MORE
        else:
            # The parent may use the arguments' memory again as soon as it has the result.
            parts.clear()
            head, flags = SHARED.pack(*place, total), flags | Flag.SHARED
        self._agent.send(encode(Kind.RESULT, call_id, head, flags=flags, attempt=attempt, detail=microseconds))
        if place is None:
            self._chunks.send(call_id, attempt, parts)

    def put_shared(self, parts: list[bytes | memoryview], total: int) -> tuple[int, int] | None:
        """Copy a payload of `total` bytes into shared memory, and return its place; None if there is no room."""
        memory = self._shared_memory()
        return None if memory is None else memory.put(parts, total)

    def open_shared(self, place: Buffer) -> tuple[Buffer, Mapping[int, BufferSource]] | None:
        """Return the payload that is in shared memory, as `receive` does; None if the slot cannot have that.

        Args:
            place: where it is, as in a CALL frame.

        Raises:
            MemoryError: there is no memory for it.
        """
        number, index, length = SHARED.unpack_from(place)
        entries = BESIDE.iter_unpack(place[SHARED.size :])
        memory = self._shared_memory()
        if memory is None:
            return None
        try:
            beside = memory.beside(entries)
            data = None if beside is None else memory.arguments(number, index, length)
        except MemoryError:
            raise _no_memory(length) from None
        return None if data is None or beside is None else (data, beside)

    def _shared_memory(self) -> SlotMemory | None:
        if self._memory is None and self._rendezvous is not None:
            # Imported at the first large payload.
            try:
                from dragonfly_executor.runner.slot_memory import SlotMemory
            except (ImportError, MemoryError, OSError):
                return None  # no descriptor or memory for the import: the payload travels over the stream

            self._memory = SlotMemory(self._rendezvous)
            self._calls.setsockopt(SOL_SOCKET, SO_RCVTIMEO, struct.pack("@ll", MEMORY_IDLE, 0))
        return self._memory

    def _receive_shared(self, call_id: int, attempt: int, place: Buffer) -> tuple[Buffer, Mapping[int, BufferSource]]:
        """Return the payload of a call that is in shared memory. If the slot cannot have that, request the bytes."""
        opened = self.open_shared(place)
        if opened is not None:
            return opened
        length = SHARED.unpack_from(place)[2]
        entries = list(BESIDE.iter_unpack(place[SHARED.size :]))
        bounds = [bound for start, _, size in entries for bound in (start, start + size)]
        whole = length + sum(size - hole(size) for _, _, size in entries)
        return self._request_stream(call_id, attempt, [0, *bounds, whole]), NOTHING

    def _request_stream(self, call_id: int, attempt: int, bounds: list[int]) -> memoryview:
        """Request the payload of a call over the stream, some chunks at a time.

        Args:
            call_id, attempt: the call.
            bounds: where the pieces of the payload begin, and where it ends. No chunk has bytes of two pieces.
        """
        length = bounds[-1]
        try:
            view = memoryview(memory_for(length))
        except MemoryError:
            raise _no_memory(length) from None
        window = LARGE_WINDOW * CHUNK_SIZE
        for begin, end in pairwise(bounds):
            for start in range(begin, end, window):
                stop = min(start + window, end)
                # Not one chunk more: after the last one, the parent would begin anew.
                chunks = -((start - stop) // CHUNK_SIZE)
                self._agent.send(encode(Kind.PULL, call_id, attempt=attempt, detail=chunks))
                self._chunks.take(start, stop, view)
        self._chunks.check()
        return view

    def _receive_pieces(
        self, flags: int, call_id: int, attempt: int, head: Buffer
    ) -> tuple[Buffer, Mapping[int, BufferSource]]:
        """Return the payload of a call of which pieces are on the runner once. Without these, request all bytes."""
        entries, rest = split_table(head)
        size = TOTAL.unpack(rest)[0] if flags & Flag.LARGE else len(rest)
        pieces = self._slot_pieces()
        found = None if pieces is None else pieces.fetch(entries, call_id, attempt)
        if found is None:
            whole = size + sum(entry.size - (hole(entry.size) if entry.is_beside else 0) for entry in entries)
            return self._receive_large(call_id, attempt, whole, Flag.PIECES), NOTHING
        # A copy, in which buffers lie at multiples of 64 bytes.
        data = self._receive_large(call_id, attempt, size) if flags & Flag.LARGE else bytes(rest)
        return _inserted(data, entries, found), found

    def _slot_pieces(self) -> SlotPieces | None:
        if self._pieces is None:
            # Imported only if a call has a piece.
            try:
                from dragonfly_executor.runner.slot_pieces import SlotPieces
            except (ImportError, MemoryError, OSError):
                return None  # no descriptor or memory for the import: the payload travels over the stream
            self._pieces = SlotPieces(self._agent)
        return self._pieces

    def _receive_large(self, call_id: int, attempt: int, total: int, flags: int = 0) -> memoryview:
        """Request and receive the payload of a call that is sent in chunks.

        Args:
            call_id, attempt: the call.
            total: the bytes in the chunks.
            flags: `Flag.PIECES` to request the whole payload in place of the part that the call has announced.
        """
        answer = TOTAL.pack(total) if flags else b""
        self._agent.send(encode(Kind.PULL, call_id, answer, flags=flags, attempt=attempt, detail=LARGE_WINDOW))
        try:
            # Only here is memory allocated for an announced length: the parent counted bytes that it holds.
            view = memoryview(memory_for(total))
        except MemoryError:
            self._chunks.take(0, total, None)
            raise _no_memory(total) from None
        self._chunks.take(0, total, view)
        self._chunks.check()
        return view


def _inserted(data: Buffer, entries: Sequence[PieceEntry], found: Mapping[int, BufferSource]) -> Buffer:
    """Return a payload with those pieces inserted that are parts of the pickle.

    Raises:
        MemoryError: there is no memory for it.
    """
    inside = [entry for entry in entries if not entry.is_beside]
    if not inside:
        return data
    size = len(data) + sum(entry.size for entry in inside)
    try:
        whole = memoryview(memory_for(size))
    except MemoryError:
        raise _no_memory(size) from None
    source, start, end = memoryview(data), 0, 0
    # Pieces beside the pickle come behind it, so none of their holes is in the way.
    for entry in inside:
        taken = entry.place - end
        whole[end : entry.place] = source[start : start + taken]
        start, end = start + taken, entry.place + entry.size
        whole[entry.place : end] = found[entry.place].constant()
    whole[end:] = source[start:]
    return whole


def _no_memory(size: int) -> MemoryError:
    return MemoryError(f"the slot has no memory for a call of {size} bytes")
