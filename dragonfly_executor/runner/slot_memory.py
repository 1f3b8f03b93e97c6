"""A slot's side of the memory that it shares with the parent on this machine.

The slot maps the segments from which it gets large arguments, and makes the segments in which it sends large results.
It connects to the parent at the first need. If shared memory cannot be had, payloads travel over the stream.
"""

from __future__ import annotations

import os
from _thread import allocate_lock
from time import monotonic

from dragonfly_executor.serialization.layout import has_buffers
from dragonfly_executor.transport.memory_channel import Message, MessageKind, receive_message, send_message
from dragonfly_executor.transport.received_segments import ReceivedSegment
from dragonfly_executor.transport.segment_pool import Segment, SegmentPool, block_count
from dragonfly_executor.transport.sockets import PACKETS, Socket, socketpair
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dragonfly_executor.transport.sockets import Buffer

SEGMENT_ROOM = 8 * 1024 * 1024
"""Bytes of a segment with several blocks. The parent grants them all at once."""
REFUSED = 1.0
"""Seconds for which the slot does not ask again after the parent had no room."""


class ParentChannel:
    """The slot's connection to the parent. Any thread of the slot may use it; a forked child of the slot may not.

    Args:
        rendezvous: the socket at which the parent waits for connections.

    Raises:
        OSError: the parent is gone, or there are no descriptors left.
    """

    def __init__(self, rendezvous: Socket) -> None:
        self._lock = allocate_lock()
        self._sock, theirs = socketpair(PACKETS)
        try:
            send_message(rendezvous, MessageKind.CONNECT, os.getpid(), fd=theirs.fileno())
        except BaseException:
            self._sock.close()
            raise
        finally:
            theirs.close()
        # While a child holds the connection, the parent does not see that the slot has ended.
        os.register_at_fork(after_in_child=self._sock.close)

    def ask(self, kind: int, number: int = 0, size: int = 0, count: int = 0, *, fd: int = -1) -> Message:
        """Send a question and return the answer.

        Raises:
            OSError: the parent is gone.
        """
        with self._lock:
            send_message(self._sock, kind, number, size, count, fd=fd)
            answer = receive_message(self._sock)
        if answer is None:
            raise OSError("the parent has closed the connection for shared memory")
        return answer

    def tell(self, kind: int, number: int) -> None:
        """Send a message that has no answer.

        Raises:
            OSError: the parent is gone.
        """
        send_message(self._sock, kind, number)


class CommonBuffer:
    """A buffer that calls have in common.

    Args:
        segment: the segment that has it in its only block.
        size: its size in bytes.
    """

    def __init__(self, segment: ReceivedSegment, size: int) -> None:
        self._segment = segment
        self._size = size

    def view(self) -> memoryview | bytearray:
        """See `BufferSource.view`."""
        try:
            return self._segment.lend_common(self._size)
        except (OSError, ValueError):  # no descriptor is left, which a mapping takes
            return self._segment.copy(self._size)

    def constant(self) -> memoryview:
        """See `BufferSource.constant`."""
        try:
            return self._segment.constant(self._size)
        except (OSError, ValueError):
            return memoryview(self._segment.copy(self._size)).toreadonly()


class SlotMemory:
    """The shared memory of one slot.

    Args:
        rendezvous: the socket at which the parent waits for connections.
    """

    def __init__(self, rendezvous: Socket) -> None:
        self._rendezvous = rendezvous
        self._channel: ParentChannel | None = None
        self._is_broken = False
        self._refused_at = float("-inf")
        self._pid = os.getpid()
        self._mapped: dict[int, ReceivedSegment] = {}
        self._pool = SegmentPool(self, ())

    def arguments(self, number: int, index: int, length: int) -> memoryview | None:
        """Return the payload of a call, as views of shared memory; None if it has to come over the stream.

        Raises:
            MemoryError: there is no memory for it.
        """
        segment = self.open(number)
        if segment is None or not segment.check(index, length):
            return None
        return segment.lend(index, length, self._pid, has_buffers)

    def beside(self, entries: Iterable[tuple[int, int, int]]) -> dict[int, CommonBuffer] | None:
        """Return buffers that lie in segments of their own, by their places; None if they have to come over the stream.

        Args:
            entries: of each buffer its place in the payload, its segment and its size.
        """
        found: dict[int, CommonBuffer] = {}
        for place, number, size in entries:
            segment = self.open(number, is_common=True)
            if segment is None or not segment.check(0, size):
                return None
            found[place] = CommonBuffer(segment, size)
        return found

    def open(self, number: int, *, is_common: bool = False) -> ReceivedSegment | None:
        """Return a segment of the parent, mapped here; None if it is gone, or cannot be had."""
        segment = self._mapped.get(number)
        if segment is not None:
            return segment
        self._drop_closed()
        try:
            answer = self._connected().ask(MessageKind.WANT, number)
            if answer.fd < 0:
                return None
            segment = self._mapped[number] = ReceivedSegment(answer.size, answer.count, answer.fd, is_common=is_common)
        except (OSError, ValueError):
            return None
        return segment

    def put(self, parts: Sequence[Buffer], size: int) -> tuple[int, int] | None:
        """Copy a result into shared memory, for the parent.

        Returns:
            The number of the segment and the block in it; None if the result has to go over the stream.
        """
        block = self._pool.take(parts, size)
        if block is None:
            return None
        block.lend()
        # It is free again when the parent says so in the block's word.
        self._pool.put(block)
        return block.segment.number, block.index

    def _connected(self) -> ParentChannel:
        if self._is_broken or os.getpid() != self._pid:
            raise OSError("there is no connection for shared memory")
        if self._channel is None:
            try:
                self._channel = ParentChannel(self._rendezvous)
            except OSError:
                self._is_broken = True
                raise
        return self._channel

    # -- the maker of the pool's segments ------------------------------------------------------------------------------

    def make(self, size: int, needed: int) -> Segment | None:
        """See `SegmentMaker.make`."""
        if monotonic() - self._refused_at < REFUSED:
            return None
        try:
            return self._make(size, block_count(size, SEGMENT_ROOM))
        except OSError:
            return None

    def _make(self, size: int, count: int) -> Segment | None:
        channel = self._connected()
        number = channel.ask(MessageKind.RESERVE, 0, size, count).number
        if not number:
            self._pool.trim()
            number = channel.ask(MessageKind.RESERVE, 0, size, count).number
        if not number:
            self._refused_at = monotonic()
            return None
        segment = Segment(number, size, count, self)
        segment.open()
        if not channel.ask(MessageKind.OFFER, number, fd=segment.fd).number:
            self._refused_at = monotonic()
            return None
        return segment

    def reserve(self, number: int, size: int) -> bool:
        """See `SegmentMaker.reserve`: the parent has granted the whole segment."""
        return True

    def closed(self, number: int) -> None:
        """See `SegmentMaker.closed`."""
        if self._channel is not None:
            self._channel.tell(MessageKind.RELEASE, number)

    # -- while there are no calls --------------------------------------------------------------------------------------

    def trim(self) -> bool:
        """Give back what is not in use. Returns True if something is left."""
        self._mapped.clear()
        return self._pool.trim()

    def _drop_closed(self) -> None:
        for number, segment in list(self._mapped.items()):
            if segment.is_closed:
                del self._mapped[number]
