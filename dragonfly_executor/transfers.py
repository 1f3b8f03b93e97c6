"""What is too large for one frame, on its way over one link: calls out, results in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dragonfly_executor.core.bounds import Download
from dragonfly_executor.core.wire import MAX_INLINE, Flag, Frame
from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.future import Outcome
from dragonfly_executor.transport.link import Buffer, Link, split_bulk

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from dragonfly_executor.payload import CallCodec
    from dragonfly_executor.reports import Ref, Result


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
        self._downloads: dict[Ref, Download] = {}

    def attach(self, link: Link) -> None:
        """Send over this link."""
        self._link = link

    # -- calls --------------------------------------------------------------------------------------------------------

    def offer(self, ref: Ref, parts: list[Buffer]) -> None:
        """Have a call ready for when its slot asks for it."""
        self._uploads[ref] = split_bulk(*ref, parts)

    def upload(self, ref: Ref, chunks: int) -> None:
        """Send so many chunks more of a call: its slot has asked for them."""
        upload = self._uploads.get(ref)
        if upload is None or self._link is None:
            return
        for _ in range(chunks):
            piece = next(upload, None)
            if piece is None:
                del self._uploads[ref]
                return
            self._link.send_bulk(*piece)

    def stop_upload(self, ref: Ref) -> None:
        """Send no more of a large call. A slot that gets the same call again must not be sent pieces of this time."""
        self._uploads.pop(ref, None)
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
        if download is None or not download.add(frame):
            return None
        del self._downloads[ref]
        head = download.head
        outcome = Outcome(self._codec, download.data, bool(head.flags & Flag.ERROR))
        return (*ref, head.detail * 1e-6, outcome, bool(head.flags & Flag.RETRYABLE))

    # -- both ---------------------------------------------------------------------------------------------------------

    def forget(self, ref: Ref) -> None:
        """The call is not there any more: neither it nor its result has anywhere to go."""
        self.stop_upload(ref)
        self._downloads.pop(ref, None)

    def close(self) -> set[Ref]:
        """The link has ended. The calls of which the runner was not sent everything."""
        unsent = {ref for ref, upload in self._uploads.items() if next(upload, None) is not None}
        self._uploads.clear()
        self._downloads.clear()
        return unsent


def sendable(parts: Sequence[Buffer]) -> bytes | Sequence[Buffer]:
    """A payload as a call keeps it: one `bytes` where it fits into a frame, else its parts as they are."""
    if len(parts) == 1 and type(parts[0]) is bytes and len(parts[0]) <= MAX_INLINE:
        return parts[0]
    return b"".join(parts) if sum(map(len, parts)) <= MAX_INLINE else parts
