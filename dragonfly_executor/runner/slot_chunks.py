"""The chunks of large payloads at the slot's end: received from the agent and opened, cut and sent to it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.compression import COMPRESSED, Compressor
from dragonfly_executor.protocol.frames import HEADER, HEADER_SIZE, split_bulk
from dragonfly_executor.transport.bulk_rate import BulkRate
from dragonfly_executor.transport.codecs import Codecs
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.runner.agent_stream import AgentStream

SCRAP_SIZE = 16 * 1024
"""Size in bytes of the buffer that drains a payload for which there is no memory. It is allocated at the start."""
AGENT_BACKLOG = 8 * 1024 * 1024
"""Bytes that the agent and the sockets take without delay. Later chunks leave at the rate of the link."""


class SlotChunks:
    """A slot's chunks, in both directions.

    Args:
        agent: the stream to the agent.
        codecs: those that the parent and this runner have.
    """

    def __init__(self, agent: AgentStream, codecs: Codecs) -> None:
        self._agent = agent
        self._codecs = codecs
        self._scrap = memoryview(bytearray(SCRAP_SIZE))
        self._rate = BulkRate()
        self._damage: Exception | None = None

    def take(self, start: int, end: int, view: memoryview | None) -> None:
        """Receive this part of a large call's payload. Without a view, discard it.

        A chunk that cannot be opened is noted for `check`, and the rest is read, so that the stream stays in step.
        """
        header = memoryview(bytearray(HEADER_SIZE))
        while start < end:
            self._agent.receive_header(header)
            _, flags, _, size, _, length = HEADER.unpack(header)
            if not flags & COMPRESSED:
                if view is None:
                    self._drop(length)
                else:
                    self._agent.receive_into(view[start : start + length])
                start += length
                continue
            if view is None or self._damage is not None:
                self._drop(length)
            else:
                self._open(flags, size, length, view[start:end])
            # The wait for a chunk without bytes never ends.
            start += max(size, 1)

    def check(self) -> None:
        """Raise if a chunk since the last check could not be opened.

        Raises:
            MemoryError, ProtocolError: the reason.
        """
        damage, self._damage = self._damage, None
        if damage is not None:
            raise damage

    def _open(self, flags: int, size: int, length: int, room: memoryview) -> None:
        if size > len(room):
            self._damage = ProtocolError(f"a compressed chunk of {size} bytes where {len(room)} are missing")
            self._drop(length)
            return
        try:
            packed = bytearray(length)
        except MemoryError as error:
            self._damage = error
            self._drop(length)
            return
        self._agent.receive_into(memoryview(packed))
        try:
            room[:size] = self._codecs.open(flags, packed, size)
        except (MemoryError, ProtocolError) as error:
            self._damage = error

    def _drop(self, size: int) -> None:
        """Read and discard `size` bytes for which there is no memory, so that the stream stays in step."""
        while size:
            piece = self._scrap[:size]
            self._agent.receive_into(piece)
            size -= len(piece)

    def send(self, call_id: int, attempt: int, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        """Send the chunks of a large result."""
        chunks = split_bulk(call_id, attempt, parts)
        if not self._codecs.names:
            for header, piece in chunks:
                self._agent.send_chunk(header, piece)
            return
        compressor = Compressor(self._codecs.loaded(), self._rate, time.thread_time)
        sent = 0
        for header, piece in chunks:
            packed_header, packed = compressor.compress(header, piece)
            before = time.perf_counter()
            self._agent.send_chunk(packed_header, packed)
            if sent > AGENT_BACKLOG:
                self._rate.add(len(packed), time.perf_counter() - before)
            sent += len(packed)
