"""The parent's side of the memory that it shares with the slots on this machine, for one pool."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import count
from weakref import WeakValueDictionary, finalize

from dragonfly_executor.engine.large_payloads import SharedPayload
from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.serialization.layout import has_buffers
from dragonfly_executor.serialization.payload_parts import PayloadParts
from dragonfly_executor.transport.memory_channel import Message, MessageKind, receive_message, send_message
from dragonfly_executor.transport.received_segments import ReceivedSegment
from dragonfly_executor.transport.segment_file import file_size
from dragonfly_executor.transport.segment_pool import Segment, SegmentPool, block_count
from dragonfly_executor.transport.sockets import PACKETS, Buffer, Socket
from dragonfly_executor.util.freed_memory import keep_freed_memory
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.engine.common_pieces import CommonPiece, CommonPieces
    from dragonfly_executor.transport.loop import Loop, Timer
    from dragonfly_executor.transport.segment_pool import Block

SEGMENT_ROOM = 64 * 1024 * 1024
"""Bytes of address space of a segment with several blocks. Memory is taken as its blocks are used."""
IDLE = 5.0
"""Seconds after which unused memory is released."""
BATCH = 64
"""Messages of one slot that are handled before the loop goes on."""
MOST_DESCRIPTORS = 2**16
"""Maximum number of descriptors that shared memory takes as this process's limit."""
DESCRIPTORS = 8
"""Divisor of the descriptors that this process may open: the maximum number of segments. Each takes at most two."""


class MemoryAccount:
    """The bytes that segments take, by the number of the segment. Any thread may use it; no step needs a lock.

    Args:
        limit: most bytes of all segments.
        most: most segments.
    """

    def __init__(self, limit: int, most: int) -> None:
        self.limit = limit
        self._most = most
        self._taken: dict[int, int] = {}

    @property
    def taken(self) -> int:
        """The bytes that all segments take."""
        return sum(list(self._taken.values()))

    def open(self, number: int, size: int = 0) -> bool:
        """Add a segment. Returns False if there are too many, or if it does not fit."""
        if len(self._taken) >= self._most:
            return False
        self._taken[number] = 0
        if self.add(number, size):
            return True
        self.close(number)
        return False

    def add(self, number: int, size: int) -> bool:
        """Add bytes to a segment. Returns False if that is over the limit."""
        # First added, then checked: of two threads at the limit, at least one sees what both have added.
        self._taken[number] = self._taken.get(number, 0) + size
        if size <= 0 or self.taken <= self.limit:
            return True
        self._taken[number] -= size
        return False

    def close(self, number: int) -> None:
        """Remove a segment."""
        self._taken.pop(number, None)


class SlotChannel:
    """The connection to one slot, and the segments that it offered."""

    def __init__(self, sock: Socket, pid: int, runner: int) -> None:
        self.sock = sock
        self.pid = pid
        self.runner = runner
        self.granted: dict[int, tuple[int, int]] = {}
        self.numbers: set[int] = set()


class SharedSegments:
    """The shared memory of a pool: its own segments, and those in which slots send results.

    Args:
        limit: most bytes, of all segments together.
    """

    def __init__(self, limit: int) -> None:
        from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit

        descriptors = getrlimit(RLIMIT_NOFILE)[0]
        if descriptors == RLIM_INFINITY or descriptors > MOST_DESCRIPTORS:
            descriptors = MOST_DESCRIPTORS
        self.account = MemoryAccount(limit, max(1, descriptors // DESCRIPTORS))
        self._numbers = count(1)
        self._segments: WeakValueDictionary[int, Segment] = WeakValueDictionary()
        self._users: set[int] = set()
        self._pool = SegmentPool(self, self._users)
        self._common: CommonPieces | None = None
        self._commons: dict[str, CommonPieces] = {}
        # Results of type `bytes` and `str` are copied from the segments to the heap of the program.
        keep_freed_memory()
        self._received: dict[int, ReceivedSegment] = {}
        self._channels: dict[int, SlotChannel] = {}
        self._loop: Loop | None = None
        self._timer: Timer | None = None

    # -- from any thread -----------------------------------------------------------------------------------------------

    def keep(self, parts: Sequence[Buffer], size: int) -> SharedPayload | None:
        """Return a copy of a payload in shared memory; None if there is no room for it."""
        beside: list[tuple[int, CommonPiece]] = []
        if isinstance(parts, PayloadParts) and parts.buffers_from:
            parts, size, beside = self._split(parts, size)
        block = self._pool.take(parts, size)
        if block is None:
            return None
        try:
            return SharedPayload(block, size, self._pool.put, beside)
        except MemoryError:
            return None

    def _split(self, parts: PayloadParts, size: int) -> tuple[Sequence[Buffer], int, list[tuple[int, CommonPiece]]]:
        """Take the buffers out of a payload that calls have in common. See `CommonPieces.split`."""
        if self._common is None:
            # Imported for the first payload of at least 1 MiB. Two threads may come here at once, and get one object.
            try:
                from dragonfly_executor.engine.common_pieces import SHARE, CommonPieces
            except (ImportError, MemoryError, OSError):
                return parts, size, []  # no descriptor or memory for the import, or a system without its functions
            made = CommonPieces(self._publish, self.account.limit // SHARE)
            self._common = self._commons.setdefault("", made)
        return self._common.split(parts)

    def _publish(self, part: Buffer) -> Block | None:
        """Copy a buffer into the only block of a new segment, and return it; None if there is no room for it.

        Slots get the segment by its number as long as the block lives, and keep the memory until they see that it has
        closed.
        """
        size = len(part)
        segment = self.make(size, size, single=True)
        if segment is None:
            return None
        (block,) = segment.make_blocks()
        return block if block.write([part], size) else None

    # -- the maker of the pool's segments, from any thread -------------------------------------------------------------

    def make(self, size: int, needed: int, *, single: bool = False) -> Segment | None:
        """See `SegmentMaker.make`."""
        number = next(self._numbers)
        if needed > self.account.limit:
            return None
        # The segment comes first: it closes what follows, whatever happens.
        segment = Segment(number, size, 1 if single else block_count(size, SEGMENT_ROOM), self)
        if not (self.account.open(number) or self._make_room(number)):
            return None
        try:
            segment.open()
        except OSError:
            return None
        self._segments[number] = segment
        return segment

    def reserve(self, number: int, size: int) -> bool:
        """See `SegmentMaker.reserve`."""
        if self.account.add(number, size):
            return True
        self._trim_all()
        return self.account.add(number, size)

    def closed(self, number: int) -> None:
        """See `SegmentMaker.closed`."""
        self.account.close(number)

    def _make_room(self, number: int, size: int = 0) -> bool:
        self._trim_all()
        return self.account.open(number, size)

    def _trim_all(self, until: float = float("inf")) -> bool:
        """Give back the memory that was not in use since `until`. Returns True if something is left."""
        is_kept = self._common is not None and self._common.trim(until)
        return self._pool.trim(until) or is_kept

    # -- on the engine thread ------------------------------------------------------------------------------------------

    def connect(self, loop: Loop, rendezvous: Socket, runner: int) -> bool:
        """Accept the connections of slots that wait at a runner's socket. Returns False if the socket has ended."""
        self.watch(loop)
        try:
            for _ in range(BATCH):
                message = receive_message(rendezvous, wait=False)
                if message is None:
                    return False
                if message.kind == MessageKind.CONNECT and message.fd >= 0:
                    self._add(loop, SlotChannel(Socket(-1, PACKETS, 0, message.fd), message.number, runner))
        except OSError:
            return True  # nothing is left; or the descriptor was lost: the slot sees that its connection has ended
        return True

    def _add(self, loop: Loop, channel: SlotChannel) -> None:
        channel.sock.setblocking(False)
        self.slot_is_down(channel.pid)
        self._channels[channel.pid] = channel
        self._users.add(channel.pid)
        loop.add_reader(channel.sock.fileno(), partial(self._on_messages, loop, channel))

    def _on_messages(self, loop: Loop, channel: SlotChannel) -> None:
        # Memory is in use again, and no timer runs if none was left.
        self.watch(loop)
        try:
            for _ in range(BATCH):
                message = receive_message(channel.sock, wait=False)
                if message is None:
                    break
                self._answer(channel, message)
            else:
                return
        except BlockingIOError:
            return
        except OSError:
            pass  # the slot gets no answer, and sees that the connection has ended
        self._disconnect(loop, channel)

    def _answer(self, channel: SlotChannel, message: Message) -> None:
        """Answer a message.

        Raises:
            OSError: the slot is gone, or does not read its answers.
        """
        number, sock = message.number, channel.sock
        if message.kind == MessageKind.WANT:
            segment = self._segments.get(number)
            if segment is None:
                send_message(sock, MessageKind.SEGMENT, number, wait=False)
            else:
                send_message(sock, MessageKind.SEGMENT, number, segment.size, segment.count, fd=segment.fd, wait=False)
        elif message.kind == MessageKind.RESERVE:
            send_message(sock, MessageKind.GRANTED, self._grant(channel, message.size, message.count), wait=False)
        elif message.kind == MessageKind.OFFER:
            send_message(sock, MessageKind.ACCEPTED, self._accept(channel, message), wait=False)
        elif message.kind == MessageKind.RELEASE:
            self._release(channel, number)

    def _grant(self, channel: SlotChannel, size: int, blocks: int) -> int:
        number, total = next(self._numbers), file_size(size, blocks)
        if not (self.account.open(number, total) or self._make_room(number, total)):
            return 0
        channel.granted[number] = size, blocks
        return number

    def _accept(self, channel: SlotChannel, message: Message) -> int:
        number = message.number
        size, blocks = channel.granted.pop(number, (0, 0))
        try:
            if not size:
                raise OSError("a segment that was not granted")
            segment = self._received[number] = ReceivedSegment(size, blocks, message.fd)
        except (OSError, ValueError, MemoryError):
            self.account.close(number)
            return 0
        # Its memory counts until the last object that is a view of it is gone.
        finalize(segment, self.account.close, number).atexit = False
        channel.numbers.add(number)
        return number

    def _release(self, channel: SlotChannel, number: int) -> None:
        channel.granted.pop(number, None)
        channel.numbers.discard(number)
        if self._received.pop(number, None) is None:
            self.account.close(number)

    def _disconnect(self, loop: Loop, channel: SlotChannel) -> None:
        """Close a connection. Memory of the slot stays until its agent has reported its end: results may follow."""
        if channel.sock.fileno() >= 0:
            loop.remove_reader(channel.sock.fileno())
            channel.sock.close()
        if self._channels.get(channel.pid) is channel:
            self._users.discard(channel.pid)

    def slot_is_down(self, pid: int) -> None:
        """Give up the segments of a slot whose last result has arrived."""
        channel = self._channels.pop(pid, None)
        if channel is None:
            return
        self._users.discard(pid)
        if self._loop is not None:
            self._disconnect(self._loop, channel)
        for number in [*channel.numbers, *channel.granted]:
            self._release(channel, number)

    def runner_is_gone(self, runner: int) -> None:
        """Give up the segments of all slots of a runner, of which no more results arrive."""
        for channel in [channel for channel in self._channels.values() if channel.runner == runner]:
            self.slot_is_down(channel.pid)

    def result(self, number: int, index: int, length: int) -> memoryview:
        """Return the payload of a result.

        Raises:
            ProtocolError: there is no such block.
            MemoryError: there is no memory for it.
        """
        segment = self._received.get(number)
        if segment is None or not segment.check(index, length):
            raise ProtocolError(f"a result of {length} bytes in block {index} of memory {number}, which is not shared")
        return segment.lend(index, length, has_buffers=has_buffers)

    def watch(self, loop: Loop) -> None:
        """Give unused memory back from now on."""
        self._loop = loop
        if self._timer is None:
            self._timer = loop.call_later(IDLE, self._trim)

    def _trim(self) -> None:
        self._timer = None
        loop = self._loop
        if loop is not None and self._trim_all(loop.time() - IDLE):
            self.watch(loop)

    def abandon(self) -> None:
        """Close the connections in a forked child. They belong to the process that forked."""
        for channel in list(self._channels.values()):
            channel.sock.close()

    def close(self) -> None:
        """Give up everything, because the pool has ended. Objects that are views of shared memory stay valid."""
        if self._timer is not None:
            self._timer.cancel()
        for pid in list(self._channels):
            self.slot_is_down(pid)
        self._pool.clear()
        if self._common is not None:
            self._common.trim()
