"""Calls and results that are too large for one frame, on their way over one link."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import starmap
from mmap import mmap

from dragonfly_executor import errors
from dragonfly_executor.engine.outcome import Outcome
from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.compression import AT_ONCE, Compressor
from dragonfly_executor.protocol.frames import BESIDE, SHARED, Flag, Frame, split_bulk
from dragonfly_executor.protocol.memory_bounds import Download
from dragonfly_executor.serialization.layout import hole
from dragonfly_executor.serialization.payload_parts import PayloadParts
from dragonfly_executor.transport.codecs import Codecs
from dragonfly_executor.transport.link import Link
from dragonfly_executor.transport.payload_buffer import PayloadBuffer
from dragonfly_executor.transport.sockets import Buffer
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.engine.common_pieces import CommonPiece
    from dragonfly_executor.engine.runner_messages import Ref, Result
    from dragonfly_executor.serialization import CallCodec
    from dragonfly_executor.serialization.shared_object import SharedContent
    from dragonfly_executor.transport.segment_pool import Block

MOST_HEADROOM = 4 * 1024 * 1024
"""Maximum number of bytes that must stay free while a result is received; a quarter of its size if that is less."""


class SharedPayload(list["Buffer"]):
    """A large payload in shared memory. Its pieces are views of that memory, for runners that need a stream.

    When the payload is not needed any more, its block is put back, unless a slot may still come to read it.

    Args:
        block: the block that has the payload.
        length: bytes of the block that the payload takes.
        put_back: puts the block back into its pool.
        beside: its buffers that lie in segments of their own: of each the hole in the block, and the buffer.

    Raises:
        MemoryError: there is no address space for the view.
    """

    contents: tuple[SharedContent, ...] = ()
    """The shared objects that the payload needs. They are kept while the payload exists."""
    held: tuple[object, ...] = ()
    """Multiprocessing's objects that the payload refers to. They are kept likewise."""
    unanswered = 0
    """Number of times that the payload was sent to a runner whose answer has not come."""

    _put_back: Callable[[Block], object] | None = None

    def __init__(
        self,
        block: Block,
        length: int,
        put_back: Callable[[Block], object],
        beside: Sequence[tuple[int, CommonPiece]] = (),
    ) -> None:
        self._block = block
        self._length = length
        self._beside = beside
        # Last: an interrupt may come before it, and `__del__` after that.
        self._put_back = put_back
        super().__init__(self._pieces(block.view()[:length]))

    def _pieces(self, view: memoryview) -> list[Buffer]:
        pieces: list[Buffer] = []
        end = 0
        for start, piece in self._beside:
            pieces += (view[end:start], piece.view())
            end = start + hole(piece.size)
        return [*pieces, view[end:]]

    def all_contents(self) -> tuple[SharedContent, ...]:
        """Return all contents that a call with this payload needs on its runner."""
        return self.contents

    def location(self) -> bytes:
        """Return the place of the payload, as a CALL frame carries it."""
        place, absent, entries = self._block.segment, 0, []
        for start, piece in self._beside:
            entries.append(BESIDE.pack(start + absent, piece.block.segment.number, piece.size))
            absent += piece.size - hole(piece.size)
        return SHARED.pack(place.number, self._block.index, self._length) + b"".join(entries)

    def __del__(self) -> None:
        if self._put_back is not None and not self.unanswered:
            self.clear()
            self._put_back(self._block)


class LargePayloads:
    """A link's large calls and results in transit. It belongs to the engine thread.

    A call is sent some chunks at a time, when its slot asks for them. A result is assembled from its chunks.

    Args:
        codec: opens the results.
        max_payload: maximum size of a result in bytes.
        later: runs a callback in the next pass of the loop.
    """

    def __init__(self, codec: CallCodec, max_payload: int, later: Callable[[Callable[[], object]], object]) -> None:
        self._codec = codec
        self._later = later
        self.codecs = Codecs()
        """The codecs by which this link's chunks may be compressed."""
        self._owed: dict[Ref, int] = {}
        """Number of chunks that are to be compressed and sent in later passes of the loop."""
        self._max_payload = max_payload
        self._link: Link | None = None
        self._uploads: dict[Ref, Iterator[tuple[bytes, Buffer]]] = {}
        self._downloads: dict[Ref, Download] = {}
        self.whole: dict[Ref, SharedPayload | PayloadParts] = {}
        """Payloads of calls on the runner that were not sent whole: parts are in shared memory, or on the runner once.

        If a slot cannot have these, it asks for the whole payload.
        """

    def attach(self, link: Link) -> None:
        """Send over this link from now on."""
        self._link = link

    # -- calls --------------------------------------------------------------------------------------------------------

    def offer(self, ref: Ref, parts: Sequence[Buffer]) -> None:
        """Store a large call until its slot asks for it."""
        self._uploads[ref] = self._chunks(ref, parts)

    def upload(self, ref: Ref, chunks: int) -> None:
        """Send the next `chunks` chunks of a call to the slot that asked for them."""
        if ref not in self._uploads and isinstance(shared := self.whole.get(ref), SharedPayload):
            # The slot cannot have the shared memory.
            self.offer(ref, shared)
        if ref not in self._uploads or self._link is None:
            return
        if not self.codecs.names:
            self._send(ref, chunks)
        elif ref in self._owed:
            self._owed[ref] += chunks
        else:
            self._owed[ref] = chunks
            self._send_owed(ref)

    def upload_whole(self, ref: Ref, chunks: int) -> None:
        """Send the first chunks of a call whose slot cannot have the pieces that its runner gets once."""
        # Once for each call: a runner that never reads must not make the link's queue grow without end.
        parts = self.whole.pop(ref, None)
        if isinstance(parts, PayloadParts):
            self.offer(ref, parts)
            self.upload(ref, chunks)

    def _chunks(self, ref: Ref, parts: Sequence[Buffer]) -> Iterator[tuple[bytes, Buffer]]:
        chunks = split_bulk(*ref, parts)
        if not self.codecs.names or self._link is None:
            return chunks
        compressor = Compressor(self.codecs.loaded(), self._link.bulk_rate, time.thread_time)
        return starmap(compressor.compress, chunks)

    def _send_owed(self, ref: Ref) -> None:
        """Send some chunks, and the others in later passes: compressing them all delays other calls."""
        owed = self._owed.pop(ref, 0)
        if self._send(ref, min(owed, AT_ONCE)) and owed > AT_ONCE:
            self._owed[ref] = owed - AT_ONCE
            self._later(lambda: self._send_owed(ref))

    def _send(self, ref: Ref, chunks: int) -> bool:
        """Send the next chunks of a call. Returns False if none are left."""
        upload = self._uploads.get(ref)
        if upload is None or self._link is None:
            return False
        for _ in range(chunks):
            piece = next(upload, None)
            if piece is None:
                del self._uploads[ref]
                return False
            self._link.send_bulk(*piece)
        return True

    def stop_upload(self, ref: Ref) -> None:
        """Stop sending a large call. If a slot gets the call again, it must not get chunks of this attempt."""
        self._uploads.pop(ref, None)
        self._owed.pop(ref, None)
        if self._link is not None:
            self._link.drop_bulk(*ref)

    def share(self, ref: Ref, payload: SharedPayload) -> None:
        """Note that a call was sent whose payload is in shared memory."""
        payload.unanswered += 1
        self.whole[ref] = payload

    def answered(self, ref: Ref) -> None:
        """Note that the slot that had this call has answered, or that no slot has it any more."""
        payload = self.whole.pop(ref, None)
        if isinstance(payload, SharedPayload):
            payload.unanswered -= 1

    # -- results ------------------------------------------------------------------------------------------------------

    def expect(self, ref: Ref, head: Frame) -> None:
        """Begin to receive a result: its head has arrived, and its chunks follow.

        Raises:
            ProtocolError: it has begun before, or is too large.
        """
        if ref in self._downloads:
            raise ProtocolError(f"the result of call {ref[0]} begins twice")
        self._downloads[ref] = Download(head, self._max_payload, PayloadBuffer, self.codecs.open)

    def chunk_arrived(self, ref: Ref, frame: Frame) -> Result | None:
        """Add a chunk to a result. Returns the result if this was the last chunk, otherwise None.

        Raises:
            ProtocolError: the result's length is not the announced one.
        """
        download = self._downloads.get(ref)
        if download is None:
            return None
        is_whole = download.add(frame)
        self._keep_headroom(download)
        if not is_whole:
            return None
        del self._downloads[ref]
        head, data = download.head, download.data
        if data is None:
            return (*ref, head.detail * 1e-6, Outcome.failed(no_memory_for(download.total)), False)
        outcome = Outcome(self._codec, data, bool(head.flags & Flag.ERROR))
        return (*ref, head.detail * 1e-6, outcome, bool(head.flags & Flag.RETRYABLE))

    def _keep_headroom(self, download: Download) -> None:
        """Drop a result that leaves too little memory. Then only its call fails, and not all later allocations."""
        taken = download.allocated
        if taken != download.taken:
            # It grows by a quarter each time, so this check is rare.
            download.taken = taken
            if not has_memory(min(taken // 4, MOST_HEADROOM)):
                download.drop()

    @property
    def most_held(self) -> int:
        """Bytes of the largest result that is being received; 0 if there is none."""
        return max((download.held for download in self._downloads.values()), default=0)

    def drop_largest(self) -> None:
        """Drop the largest result that is being received. Its call fails when all chunks have arrived."""
        largest = max(self._downloads.values(), key=lambda download: download.held, default=None)
        if largest is not None:
            largest.drop()

    # -- both ---------------------------------------------------------------------------------------------------------

    def forget(self, ref: Ref) -> None:
        """Drop the chunks of a call that has left the runner, and of its result."""
        self.stop_upload(ref)
        self.answered(ref)
        self._downloads.pop(ref, None)

    def close(self) -> set[Ref]:
        """End all transfers, because the link has ended. Returns the calls that were not sent completely."""
        unsent = {ref for ref, upload in self._uploads.items() if next(upload, None) is not None}
        self._uploads.clear()
        self._owed.clear()
        self._downloads.clear()
        self.whole.clear()
        return unsent


def has_memory(size: int) -> bool:
    """Return True if this process can allocate `size` more bytes."""
    try:
        mmap(-1, size).close()
    except (MemoryError, OSError):
        return False
    return True


def no_memory_for(size: int) -> errors.ResultDeserializationError:
    """Return the error of a call whose result does not fit into memory."""
    error = errors.ResultDeserializationError(
        f"the call has ended, but this process has no memory for its result or exception of {size} bytes: return less, "
        "or let the call write its result to a file",
        size,
    )
    error.__cause__ = MemoryError()
    return error
