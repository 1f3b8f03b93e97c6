"""Frames over a non-blocking socket, in two lanes.

The first lane takes control frames and small payloads. All frames that one pass of the loop queues there leave in one
write. The second lane takes large payloads, some chunks at a time, and only when the first lane is empty. So a result
of a gigabyte delays neither heartbeats nor other calls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.frames import (
    CHUNK_SIZE,
    MAX_FRAME,
    MAX_HANDSHAKE_FRAME,
    Decoder,
    Frame,
)
from dragonfly_executor.transport.bulk_rate import BulkRate
from dragonfly_executor.transport.loop import Loop
from dragonfly_executor.transport.sockets import Buffer, Socket
from dragonfly_executor.transport.streams import DescriptorPair
from dragonfly_executor.transport.unwritten_calls import call_of, calls_not_written, objects_not_written
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.transport.payload_buffer import ChunkBuffers

READ_SIZE = 64 * 1024
LARGE_READ_SIZE = 1024 * 1024
SMALL_READ_SIZE = 4 * 1024
"""Size of a read in bytes when memory is short."""
JOIN_LIMIT = 512 * 1024
"""Bytes of the first lane that are joined for one write. Joining more costs more than a second write."""
MAX_PIECES = 512
"""Maximum number of buffers in one write. The kernel takes 1,024 (IOV_MAX)."""
MAX_REPLIES = 16 * 1024
"""Maximum number of unwritten answers.

Otherwise a peer that asks and does not read makes the queue grow without end.
"""
BULK_AHEAD = 4 * CHUNK_SIZE
"""Bytes of the second lane that are passed to one write."""


class Link:
    """One end of a stream of frames.

    Args:
        loop: the loop of the thread that owns the link.
        sock: the stream.
        on_frames: called with the list of frames that a read completed.
        on_closed: called once, from the loop, when the stream has ended or broken, with the reason. It is not called
            after `close`.
        handshake: accept only small frames, one at a time, until `end_handshake`.
        buffers: memory for chunks, if the owner forwards them. A frame in a bytearray that is passed to `send_bulk`
            then belongs to the link.
    """

    def __init__(
        self,
        loop: Loop,
        sock: Socket | DescriptorPair,
        on_frames: Callable[[list[Frame]], None],
        on_closed: Callable[[Exception | None], None],
        *,
        handshake: bool = False,
        buffers: ChunkBuffers | None = None,
    ) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._write_fd = sock.write_fileno() if isinstance(sock, DescriptorPair) else self._fd
        self._on_frames = on_frames
        self._on_closed = on_closed
        make = bytearray if buffers is None else buffers.take
        self._decoder = Decoder(MAX_HANDSHAKE_FRAME if handshake else MAX_FRAME, one_by_one=handshake, make=make)
        self._buffers = buffers
        self._first_lane: deque[Buffer] = deque()
        self._second_lane: deque[tuple[Buffer, Buffer]] = deque()
        self._unsent: deque[memoryview] = deque()
        self._unsent_is_bulk = False
        self._flush_is_due = False
        self.is_blocked = False
        """True while frames wait because the socket takes no more."""
        self._read_size = READ_SIZE
        self._replies = 0
        self.first_place = 0
        """Number of frames that left the first lane while the link was blocked."""
        self.queued_bulk = 0
        """Bytes of the second lane that wait to be written."""
        self.on_drained: Callable[[], None] | None = None
        """A callback for when the second lane has shrunk below a few chunks."""
        self.on_shortage: Callable[[], bool] | None = None
        """A callback for when memory runs out while reading. It frees memory, and returns False if it can free none."""
        self.unwritten: set[tuple[int, int]] = set()
        """Id and attempt of the calls that the peer cannot have received completely. `close` sets it."""
        self.unwritten_objects: set[int] = set()
        """The shared objects of which pieces were not written. `close` sets it."""
        self.closed = False
        self._pauses = 0
        self.bulk_rate = BulkRate()
        """The rate of the second lane while frames wait for the socket."""
        self._waiting_since = 0.0
        self._waited_bytes = 0
        self._time = loop.time
        self.last_heard = loop.time()
        loop.add_reader(self._fd, self._read)

    def end_handshake(self) -> None:
        """Accept frames of any size, and several at a time, from an authenticated peer."""
        self._decoder.max_frame = MAX_FRAME
        self._decoder.one_by_one = False

    def send(self, frame: Buffer) -> None:
        """Queue a frame in the first lane. It leaves with all other frames of this pass."""
        self._first_lane.append(frame)
        if not self._flush_is_due and not self.is_blocked:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def reply(self, frame: Buffer) -> None:
        """Send an answer to the peer's request. More than `MAX_REPLIES` unwritten answers end the link."""
        if not self._first_lane:
            self._replies = 0
        self._replies += 1
        if self._replies <= MAX_REPLIES:
            self.send(frame)
        elif self._replies == MAX_REPLIES + 1:
            error = ProtocolError(f"{MAX_REPLIES} answers wait for a peer that does not read them")
            self._loop.call_soon(lambda: self._fail(error))

    @property
    def next_place(self) -> int:
        """Return the place that the next frame takes in the first lane.

        While the link is blocked, a frame whose place is below `first_place` has left the lane.
        """
        return self.first_place + len(self._first_lane)

    def queue(self, frame: Buffer) -> None:
        """Queue a frame in the first lane without scheduling a write. The caller must call `flush`."""
        self._first_lane.append(frame)

    def send_bulk(self, header: Buffer, piece: Buffer = b"") -> None:
        """Queue a chunk frame in the second lane."""
        self._second_lane.append((header, piece))
        self.queued_bulk += len(header) + len(piece)
        if not self._flush_is_due and not self.is_blocked:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def drop_bulk(self, call_id: int, attempt: int) -> None:
        """Remove a call's chunks from the second lane. Chunks that are already being written still leave."""
        if not self._second_lane:
            return
        kept = [chunk for chunk in self._second_lane if call_of(chunk[0]) != (call_id, attempt)]
        self._second_lane = deque(kept)
        self.queued_bulk = sum(len(header) + len(piece) for header, piece in kept)

    def flush(self) -> None:
        """Write the queued frames that the socket takes at once."""
        # Calls that come one by one queue exactly one small frame.
        if len(self._first_lane) != 1 or self._unsent or self.closed or not self._write_one():
            self._flush()

    def _write_one(self) -> bool:
        """Write the first lane's only frame. Return True if nothing is left to do."""
        frame = self._first_lane[0]
        try:
            sent = self._sock.send(frame)
        except OSError:
            # The next write raises the same error.
            return False
        self._first_lane.clear()
        if sent < len(frame):
            self._unsent.append(memoryview(frame)[sent:])
            self._unsent_is_bulk = False
            return False
        return not self._second_lane and not self.is_blocked

    def pause(self) -> None:
        """Stop reading. The peer then blocks, and memory on this side stays bounded.

        Several callers may pause a link, each for its own reason. Each of them calls `resume` once.
        """
        self._pauses += 1
        if self._pauses == 1 and not self.closed:
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        """End a pause. Reading starts again with the end of the last pause."""
        self._pauses -= 1
        if not self._pauses and not self.closed:
            self._loop.add_reader(self._fd, self._read)

    @property
    def is_paused(self) -> bool:
        """Return True while the link is not read."""
        return self._pauses > 0

    def drain_reads(self) -> None:
        """Read what has arrived, until a frame among it pauses the link. A paused link is not read."""
        while not self._pauses and not self.closed and self._read():
            continue

    def drain_until(self, is_enough: Callable[[], bool]) -> None:
        """Read what has arrived, one read after the other, until `is_enough`. A paused link is read as well."""
        while not self.closed and not is_enough() and self._read():
            continue

    def close(self) -> None:
        """Close the socket. Unwritten frames are dropped."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._write_fd)
        self._sock.close()
        # The unsent data is the rest of a joined batch of frames, or of chunks.
        rest = self._unsent[0] if self._unsent and not self._unsent_is_bulk else memoryview(b"")
        self.unwritten = calls_not_written(rest, self._first_lane)
        self.unwritten |= {call_of(header) for header, _ in self._second_lane}
        self.unwritten_objects = objects_not_written(self._second_lane)
        self._first_lane.clear()
        self._second_lane.clear()
        self._unsent.clear()

    def fileno(self) -> int:
        """Return the descriptor for reading."""
        return self._fd

    def descriptors(self) -> set[int]:
        """Return the descriptors that a forked child must not keep."""
        return {self._fd, self._write_fd}

    def _fail(self, reason: Exception | None) -> None:
        if not self.closed:
            self.close()
            self._on_closed(reason)

    def _read(self) -> bool:
        """Read once, or finish a long frame and read once. Return True if there may be more."""
        gap = self._decoder.gap()
        if gap is not None:
            count = self._read_into(gap)
            if count < len(gap) or self.closed:
                return count > 0
            # Read on: a TLS socket may hold bytes that no poller sees, and the next frame often has arrived.
        try:
            data = self._sock.recv(self._read_size)
        except (BlockingIOError, InterruptedError):
            return False
        except MemoryError:
            # Nothing was read: there was no memory for a buffer of this size.
            if self._read_size == SMALL_READ_SIZE and not self._has_made_room():
                raise
            self._read_size = SMALL_READ_SIZE
            return True
        except OSError as error:
            self._fail(error)
            return False
        if not data:
            self._fail(None)
            return False
        self.last_heard = self._time()
        is_full = len(data) == self._read_size
        try:
            self._pass_on(self._feed(data))
        except ProtocolError as error:
            self._fail(error)
            return False
        # A large buffer is mapped anew for each read, which only pays while many small frames flow. The rest of a long
        # frame is received in place.
        self._read_size = LARGE_READ_SIZE if is_full and self._decoder.gap() is None else READ_SIZE
        return True

    def _read_into(self, gap: memoryview) -> int:
        """Read bytes of a long frame, once. Return their number."""
        try:
            count = self._sock.recv_into(gap)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._fail(error)
            return 0
        if not count:
            self._fail(None)
            return 0
        self.last_heard = self._time()
        try:
            self._pass_on(self._decoder.filled(count))
        except ProtocolError as error:
            self._fail(error)
        return count

    def _pass_on(self, frames: list[Frame]) -> None:
        while frames:
            self._on_frames(frames)
            # During a handshake there may be more frames, under the limits that the last frame has set.
            frames = self._feed(b"") if self._decoder.pending and not self.closed else []

    def _feed(self, data: bytes) -> list[Frame]:
        while True:
            try:
                return self._decoder.feed(data)
            except MemoryError:
                if not self._has_made_room():
                    raise

    def _has_made_room(self) -> bool:
        return self.on_shortage is not None and self.on_shortage()

    def _flush(self) -> None:
        self._flush_is_due = False
        if self.closed:
            return
        try:
            while self._unsent or self._first_lane or self._second_lane:
                if not self._unsent:
                    self._fill()
                if not self._write():
                    self._measure()
                    self._want_writer(True)
                    return
        except OSError as error:
            # The peer may have sent the reason before it closed, so read that first.
            self.drain_reads()
            self._fail(error)
            return
        if self.is_blocked:
            self._want_writer(False)

    def _fill(self) -> None:
        """Move frames from the lanes into the next write."""
        self._unsent_is_bulk = not self._first_lane
        if self._first_lane:
            if len(self._first_lane) == 1:
                self._unsent.append(memoryview(self._first_lane.popleft()))
                self.first_place += 1
                return
            taken: list[Buffer] = []
            size = 0
            while self._first_lane and size < JOIN_LIMIT:
                frame = self._first_lane.popleft()
                taken.append(frame)
                size += len(frame)
            try:
                self._unsent.append(memoryview(b"".join(taken)))
            except MemoryError:
                # A single frame needs no new memory.
                self._unsent.append(memoryview(taken[0]))
                self._first_lane.extendleft(taken[:0:-1])
                del taken[1:]
            self.first_place += len(taken)
            return
        size = 0
        while self._second_lane and size < BULK_AHEAD and len(self._unsent) < MAX_PIECES:
            header, piece = self._second_lane.popleft()
            size += len(header) + len(piece)
            self._unsent.append(memoryview(header))
            if len(piece):
                self._unsent.append(memoryview(piece))
        self.queued_bulk -= size
        if self.on_drained is not None and self.queued_bulk < BULK_AHEAD:
            self.on_drained()

    def _write(self) -> bool:
        """Write once. Return False if the socket's buffer is full."""
        try:
            one = len(self._unsent) == 1
            sent = self._sock.send(self._unsent[0]) if one else self._sock.sendmsg(self._unsent)
        except (BlockingIOError, InterruptedError):
            return False
        if self.is_blocked:
            self._waited_bytes += sent
        while sent:
            first = self._unsent[0]
            if sent < len(first):
                self._unsent[0] = first[sent:]
                return True
            sent -= len(first)
            self._unsent.popleft()
            if (
                self._buffers is not None
                and self._unsent_is_bulk
                and type(first.obj) is bytearray
                and not first.readonly
            ):
                self._buffers.give(first.obj)
        return True

    def _measure(self) -> None:
        """Count the time since the socket's buffer was full before, with the bytes that have left since then."""
        now = self._time()
        if self.is_blocked and self._unsent_is_bulk:
            self.bulk_rate.add(self._waited_bytes, now - self._waiting_since)
        self._waiting_since, self._waited_bytes = now, 0

    def _want_writer(self, wanted: bool) -> None:
        if wanted == self.is_blocked or self.closed:
            return
        self.is_blocked = wanted
        if wanted:
            self._loop.add_writer(self._write_fd, self._flush)
        else:
            self._loop.remove_writer(self._write_fd)
