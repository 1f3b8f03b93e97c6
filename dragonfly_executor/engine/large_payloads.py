"""What is too large for one frame, on its way over one link: calls out, results in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from mmap import mmap
from sys import getsizeof

from dragonfly_executor import errors
from dragonfly_executor.engine.future import Outcome
from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.frames import MAX_INLINE, Flag, Frame, split_bulk
from dragonfly_executor.protocol.memory_bounds import Download
from dragonfly_executor.serialization.buffer_cache import PayloadParts
from dragonfly_executor.transport.link import Buffer, Link

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from dragonfly_executor.engine.runner_messages import Ref, Result
    from dragonfly_executor.serialization import CallCodec

EMPTY = memoryview(b"")
MOST_HEADROOM = 4 * 1024 * 1024
"""Bytes that a result which comes in has to leave free."""


class Transfers:
    """A link's large calls and results that are under way. Belongs to the engine thread.

    A call goes out as its slot asks for it, some chunks at a time; a result is put together as it comes.

    Args:
        codec: opens the results.
        max_payload: bytes that a result may take.
    """

    def __init__(self, codec: CallCodec, max_payload: int) -> None:
        self._codec = codec
        self._max_payload = max_payload
        self._link: Link | None = None
        self._uploads: dict[Ref, Iterator[tuple[bytes, memoryview]]] = {}
        self._unasked: dict[Ref, PayloadParts] = {}
        """Calls of which a slot may have parts already, and has yet to say so."""
        self._downloads: dict[Ref, Download] = {}

    def attach(self, link: Link) -> None:
        """Send over this link."""
        self._link = link

    # -- calls --------------------------------------------------------------------------------------------------------

    def offer(self, ref: Ref, parts: list[Buffer]) -> None:
        """Have a call ready for when its slot asks for it."""
        self._uploads[ref] = split_bulk(*ref, parts)
        if type(parts) is PayloadParts:
            self._unasked[ref] = parts

    def upload(self, ref: Ref, chunks: int, answer: memoryview = EMPTY) -> None:
        """Send so many chunks more of a call: its slot has asked for them, and says at first what it has already.

        Raises:
            ProtocolError: what it says makes no sense.
        """
        upload = self._uploads.get(ref)
        if upload is None or self._link is None:
            return
        parts = self._unasked.pop(ref, None)
        if answer:
            if parts is None:
                raise ProtocolError(f"parts of call {ref[0]}, of which none were announced")
            try:
                upload = self._uploads[ref] = split_bulk(*ref, parts.without(answer))
            except ValueError as error:
                raise ProtocolError(f"what is here of call {ref[0]}: {error}") from None
        for _ in range(chunks):
            piece = next(upload, None)
            if piece is None:
                del self._uploads[ref]
                return
            self._link.send_bulk(*piece)

    def stop_upload(self, ref: Ref) -> None:
        """Send no more of a large call. A slot that gets the same call again must not be sent pieces of this time."""
        self._uploads.pop(ref, None)
        self._unasked.pop(ref, None)
        if self._link is not None:
            self._link.drop_bulk(*ref)

    # -- results ------------------------------------------------------------------------------------------------------

    def expect(self, ref: Ref, head: Frame) -> None:
        """A result begins: its head has come, its chunks follow.

        Raises:
            ProtocolError: it has begun before, or is too large.
        """
        if ref in self._downloads:
            raise ProtocolError(f"the result of call {ref[0]} begins twice")
        self._downloads[ref] = Download(head, self._max_payload)

    def chunk_arrived(self, ref: Ref, frame: Frame) -> Result | None:
        """A piece of a result has come; the result, if it was the last one.

        Raises:
            ProtocolError: the result is not as long as was announced.
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
        """Drop a result that leaves no memory to go on with: everything else would fail of that, not this one call."""
        if download.data is None:
            return
        taken = getsizeof(download.data)
        if taken != download.taken:
            # It grows in steps of an eighth, so that this is seldom.
            download.taken = taken
            if not has_memory(min(taken // 4, MOST_HEADROOM)):
                download.drop()

    @property
    def most_held(self) -> int:
        """Bytes of the largest result that is coming in; 0 if there is none."""
        return max((len(download.data or b"") for download in self._downloads.values()), default=0)

    def drop_largest(self) -> None:
        """Drop the largest result that is coming in; the call fails when all of it has come."""
        held = [download for download in self._downloads.values() if download.data]
        if held:
            max(held, key=lambda download: len(download.data or b"")).drop()

    # -- both ---------------------------------------------------------------------------------------------------------

    def forget(self, ref: Ref) -> None:
        """The call is not there any more: neither it nor its result has anywhere to go."""
        self.stop_upload(ref)
        self._downloads.pop(ref, None)

    def close(self) -> set[Ref]:
        """The link has ended. The calls of which the runner was not sent everything."""
        unsent = {ref for ref, upload in self._uploads.items() if next(upload, None) is not None}
        self._uploads.clear()
        self._unasked.clear()
        self._downloads.clear()
        return unsent


def has_memory(size: int) -> bool:
    """Return True if this process could have so many bytes more."""
    try:
        mmap(-1, size).close()
    except (MemoryError, OSError):
        return False
    return True


def no_memory_for(size: int) -> errors.ResultDeserializationError:
    """Return the error of a call whose result there is no memory for."""
    error = errors.ResultDeserializationError(
        f"the call has ended, and what it returned or raised takes {size} bytes, for which this process has no memory: "
        "return less, or have the call write it to a file",
        size,
    )
    error.__cause__ = MemoryError()
    return error


def sendable(parts: Sequence[Buffer]) -> bytes | Sequence[Buffer]:
    """A payload as a call keeps it: one `bytes` where it fits into a frame, else its parts as they are."""
    if len(parts) == 1 and type(parts[0]) is bytes and len(parts[0]) <= MAX_INLINE:
        return parts[0]
    return b"".join(parts) if sum(map(len, parts)) <= MAX_INLINE else parts
