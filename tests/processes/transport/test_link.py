"""Links over real sockets and pipes: order, lanes, closing, and a peer that reads slowly."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.frames import CHUNK_SIZE, HEADER_SIZE, Decoder, Flag, Frame, Kind, encode, split_bulk
from dragonfly_executor.transport.link import SMALL_READ_SIZE, Link
from dragonfly_executor.transport.loop import Loop
from dragonfly_executor.transport.payload_buffer import ChunkBuffers
from dragonfly_executor.transport.streams import PIPE_SIZE, DescriptorPair, as_socket
from tests.support.helpers import PATIENCE


class End:
    """A link under test and what it reported; its peer is a plain socket."""

    def __init__(self, *, handshake: bool = False) -> None:
        self.loop = Loop()
        ours, self.peer = socket.socketpair()
        self.frames: list[Frame] = []
        self.closed: list[Exception | None] = []
        self.link = Link(self.loop, ours, self._heard, self._ended, handshake=handshake)
        self.enough = 0

    def _heard(self, frames: list[Frame]) -> None:
        self.frames += frames
        if len(self.frames) >= self.enough:
            self.loop.stop()

    def _ended(self, reason: Exception | None) -> None:
        self.closed.append(reason)
        self.loop.stop()

    def hear(self, number: int) -> list[Frame]:
        """Run the loop until so many frames have come."""
        self.enough = number
        if len(self.frames) < number:
            self.loop.run()
        return self.frames

    def close(self) -> None:
        self.link.close()
        self.peer.close()
        self.loop.close()


@pytest.fixture
def end() -> Iterator[End]:
    end = End()
    yield end
    end.close()


def read_frames(sock: socket.socket, number: int) -> list[Frame]:
    """So many frames from a blocking socket."""
    decoder = Decoder()
    frames: list[Frame] = []
    while len(frames) < number:
        data = sock.recv(65536)
        assert data, "the link ended early"
        frames += decoder.feed(data)
    return frames


def fill(sock: socket.socket) -> None:
    """Send frames of 1,000 bytes until the socket takes no more: more than one read of the link takes."""
    sock.setblocking(False)
    frame = encode(Kind.CALL, 1, b"x" * (1000 - HEADER_SIZE), attempt=1)
    with suppress(BlockingIOError):
        while sock.send(frame) == len(frame):
            continue


def filled(end: End) -> int:
    """Return the number of frames that have arrived at the link in all. It must be open."""
    end.link.drain_until(lambda: False)
    return len(end.frames)


def test_frames_of_one_pass_go_out_in_one_write_and_in_order(end: End) -> None:
    sent = [encode(Kind.CALL, number, b"x", attempt=1) for number in range(100)]
    for frame in sent:
        end.link.send(frame)
    end.loop.call_soon(end.loop.stop)
    end.loop.run()
    assert end.peer.recv(1 << 20) == b"".join(sent)


def test_frames_that_come_in_pieces_arrive_whole(end: End) -> None:
    data = encode(Kind.RESULT, 1, b"value", attempt=1) + encode(Kind.PONG)
    for position in range(len(data)):
        end.loop.call_soon(lambda position=position: end.peer.send(data[position : position + 1]))  # type: ignore[misc]
    assert [frame.kind for frame in end.hear(2)] == [Kind.RESULT, Kind.PONG]


def test_the_end_of_the_stream_is_told_once_without_a_reason(end: End) -> None:
    end.peer.close()
    end.loop.run()
    assert end.closed == [None]
    assert end.link.closed


def test_a_peer_that_breaks_the_rules_is_dropped_with_the_reason(end: End) -> None:
    end.peer.send(b"\xff" * 100)
    end.loop.run()
    assert isinstance(end.closed[0], ProtocolError)


def test_control_frames_overtake_a_large_payload(end: End) -> None:
    payload = bytes(range(256)) * (64 * CHUNK_SIZE // 256)
    for header, piece in split_bulk(9, 1, [payload]):
        end.link.send_bulk(header, piece)
    received: list[Frame] = []

    def read() -> None:
        received.extend(read_frames(end.peer, 65))
        end.loop.call_soon_threadsafe(end.loop.stop)

    reader = threading.Thread(target=read)

    def ping() -> None:
        """Send it when the socket is full, and most chunks wait in the second lane. Only then is anything read."""
        end.link.send(encode(Kind.PING))
        reader.start()

    end.loop.call_soon(lambda: end.loop.call_soon(ping))
    end.loop.run()
    reader.join()
    kinds = [frame.kind for frame in received]
    assert kinds.index(Kind.PING) < 32
    chunks = [frame for frame in received if frame.kind == Kind.CHUNK]
    assert b"".join(frame.payload for frame in chunks) == payload
    assert [bool(frame.flags & Flag.MORE) for frame in chunks] == [True] * 63 + [False]


def test_forwarded_chunks_use_the_same_few_buffers_and_arrive_as_they_were() -> None:
    """A buffer is used again only when its chunk has left completely, however slowly the peer reads."""
    loop, buffers = Loop(), ChunkBuffers()
    near, source = socket.socketpair()
    sink, far = socket.socketpair()
    chunks = [encode(Kind.CHUNK, 1, os.urandom(CHUNK_SIZE), attempt=1) for _ in range(40)]
    received: list[bytes] = []

    def forward(frames: list[Frame]) -> None:
        for frame in frames:
            outgoing.send_bulk(frame.raw)

    def read() -> None:
        # One buffer's room is read at a time, so that the links are stopped again and again.
        with far:
            for _ in chunks:
                data = bytearray()
                while len(data) < len(chunks[0]):
                    data += far.recv(min(50_000, len(chunks[0]) - len(data)))
                received.append(bytes(data))
        loop.call_soon_threadsafe(loop.stop)

    def write() -> None:
        with source:
            for chunk in chunks:
                source.sendall(chunk)

    outgoing = Link(loop, sink, lambda frames: None, lambda reason: None, buffers=buffers)
    incoming = Link(loop, near, forward, lambda reason: None, buffers=buffers)
    threads = [threading.Thread(target=read), threading.Thread(target=write)]
    for thread in threads:
        thread.start()
    loop.run()
    for thread in threads:
        thread.join()
    for link in (incoming, outgoing):
        link.close()
    loop.close()
    assert received == chunks
    assert len(buffers._free) > 0


def test_a_drain_stops_at_the_frame_that_pauses_the_link(end: End) -> None:
    """Otherwise a peer that writes as fast as it is read gets past every window."""
    fill(end.peer)

    def hear(frames: list[Frame]) -> None:
        end.frames += frames
        end.link.pause()

    end.link._on_frames = hear
    end.link.drain_reads()
    first = len(end.frames)
    end.link.drain_reads()
    assert 0 < first == len(end.frames) < filled(end)


def test_a_paused_link_is_drained_as_far_as_its_reader_asks(end: End) -> None:
    fill(end.peer)
    end.link.pause()
    end.link.drain_until(lambda: len(end.frames) > 0)
    first = len(end.frames)
    end.link.drain_until(lambda: False)
    assert 0 < first < len(end.frames) == filled(end)


def test_a_link_is_read_again_when_each_of_its_pauses_has_ended(end: End) -> None:
    end.link.pause()
    end.link.pause()
    end.peer.send(encode(Kind.PING))
    end.link.resume()
    end.loop.call_soon(end.loop.stop)
    end.loop.run()
    assert (end.link.is_paused, end.frames) == (True, [])
    end.link.resume()
    assert [frame.kind for frame in end.hear(1)] == [Kind.PING]
    assert not end.link.is_paused


def test_a_slow_reader_gets_everything_in_the_end(end: End) -> None:
    sent = [encode(Kind.CALL, number, b"y" * 5000, attempt=1) for number in range(400)]
    for frame in sent:
        end.link.send(frame)
    received: list[Frame] = []

    def read() -> None:
        received.extend(read_frames(end.peer, 400))
        end.loop.call_soon_threadsafe(end.loop.stop)

    reader = threading.Thread(target=read)
    reader.start()
    end.loop.run()
    reader.join()
    assert [frame.raw for frame in received] == sent


def test_writing_to_a_peer_that_is_gone_still_reads_what_it_said_last(end: End) -> None:
    end.peer.send(encode(Kind.BYE))
    end.peer.close()
    end.link.send(encode(Kind.PING))
    end.link.flush()
    assert [frame.kind for frame in end.frames] == [Kind.BYE]
    assert len(end.closed) == 1


class Wrapped:
    """Has nothing of a socket but the three methods."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def recv(self, size: int) -> bytes:
        return self._sock.recv(size)

    def sendall(self, data: bytes) -> None:
        self._sock.sendall(data)

    def close(self) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)


def test_a_stream_that_is_no_socket_is_pumped() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sock, pump = as_socket(Wrapped(ours))
        assert pump is not None
        sock.sendall(b"there")
        assert theirs.recv(100) == b"there"
        theirs.sendall(b"back")
        assert sock.recv(100) == b"back"
        sock.close()
        assert theirs.recv(100) == b""
        assert pump.join(PATIENCE) == []
        assert pump.fileno() == -1


def test_a_pump_ends_with_its_stream() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        sock, pump = as_socket(Wrapped(ours))
        assert pump is not None
        with sock:
            theirs.sendall(b"last words")
            theirs.close()
            assert sock.recv(100) == b"last words"
            assert sock.recv(100) == b""
        assert pump.join(PATIENCE) == []


def test_a_pump_whose_stream_does_not_end_is_told_of() -> None:
    ours, theirs = socket.socketpair()

    class Endless(Wrapped):
        def close(self) -> None:
            """It goes on."""

    with theirs:
        sock, pump = as_socket(Endless(ours))
        assert pump is not None
        sock.close()
        assert sorted(pump.join(0.05)) == ["dragonfly-pump-in", "dragonfly-pump-out"]
        theirs.shutdown(socket.SHUT_RDWR)
        assert pump.join(PATIENCE) == []
    ours.close()


def test_a_pump_lets_go_of_its_socket_though_its_stream_cannot_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream may be anybody's. That it raises is a bug that shows; what it stands on breaking is none."""
    ours, theirs = socket.socketpair()

    class Broken(Wrapped):
        def sendall(self, data: bytes, /) -> None:
            raise EOFError

        def close(self) -> None:
            super().close()
            raise ValueError("closed twice")

    shown: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", shown.append)
    with theirs:
        sock, pump = as_socket(Broken(ours))
        assert pump is not None
        with sock:
            sock.sendall(b"?")
            assert sock.recv(1) == b""
        assert pump.join(PATIENCE) == []
        assert pump.fileno() == -1
    assert [str(args.exc_value) for args in shown] == ["closed twice"]
    ours.close()


def test_a_socket_needs_no_pump() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert as_socket(ours) == (ours, None)


@pytest.fixture
def pipes() -> Iterator[tuple[DescriptorPair, DescriptorPair]]:
    """Both ends of a stream that is made of two pipes."""
    first, second = os.pipe(), os.pipe()
    ends = DescriptorPair(first[0], second[1]), DescriptorPair(second[0], first[1])
    yield ends
    for end in ends:
        end.close()


@pytest.mark.skipif(not hasattr(fcntl, "F_GETPIPE_SZ"), reason="only Linux has pipes of other sizes")
def test_pipes_have_room_for_large_payloads(pipes: tuple[DescriptorPair, DescriptorPair]) -> None:
    for pair in pipes:
        assert {fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) for fd in (pair.fileno(), pair.write_fileno())} == {PIPE_SIZE}


def test_two_descriptors_carry_frames_like_one_socket(pipes: tuple[DescriptorPair, DescriptorPair]) -> None:
    """More than a pipe holds at once, both ways, in both lanes."""
    loop = Loop()
    sent = [encode(Kind.CALL, number, b"y" * 50_000, attempt=1) for number in range(40)]
    received: list[bytes] = []
    closed: list[Exception | None] = []

    def back(frames: list[Frame]) -> None:
        for frame in frames:
            echo.send_bulk(bytes(frame.raw))

    def arrived(frames: list[Frame]) -> None:
        received.extend(bytes(frame.raw) for frame in frames)
        if len(received) == len(sent):
            link.close()

    def ended(reason: Exception | None) -> None:
        closed.append(reason)
        loop.stop()

    link = Link(loop, pipes[0], arrived, lambda reason: None)
    echo = Link(loop, pipes[1], back, ended)
    assert len(link.descriptors()) == 2
    for frame in sent:
        link.send(frame)
    loop.run()
    loop.close()
    assert received == sent
    assert closed == [None]


def test_timers_ring_in_order_and_a_cancelled_one_does_not() -> None:
    loop = Loop()
    rang: list[str] = []
    loop.call_later(0.002, lambda: rang.append("second"))
    loop.call_later(0.001, lambda: rang.append("first"))
    loop.call_later(0.0015, lambda: rang.append("never")).cancel()
    loop.call_later(0.003, loop.stop)
    loop.run()
    loop.close()
    assert rang == ["first", "second"]


def test_calls_from_other_threads_wake_the_loop() -> None:
    loop = Loop()
    seen: list[int] = []
    done = threading.Event()

    def call() -> None:
        for number in range(1000):
            loop.call_soon_threadsafe(lambda number=number: seen.append(number))  # type: ignore[misc]
        loop.call_soon_threadsafe(loop.stop)
        done.set()

    thread = threading.Thread(target=call)
    thread.start()
    loop.run()
    thread.join()
    loop.close()
    assert done.is_set()
    assert seen == list(range(1000))


class Short:
    """A socket that has no memory for reads of more than so many bytes."""

    def __init__(self, sock: socket.socket, most: int) -> None:
        self._sock = sock
        self.most = most
        self.setblocking, self.fileno, self.close = sock.setblocking, sock.fileno, sock.close
        self.send, self.sendmsg = sock.send, sock.sendmsg

    def recv(self, size: int) -> bytes:
        if size > self.most:
            raise MemoryError
        return self._sock.recv(size)


@pytest.fixture
def short(end: End) -> Short:
    end.link._sock = short = Short(end.link._sock, 0)  # type: ignore[arg-type,assignment]
    return short


def test_where_memory_is_short_less_is_read_at_a_time(end: End, short: Short) -> None:
    short.most = SMALL_READ_SIZE
    end.link.on_shortage = lambda: pytest.fail("there is room for a small read")
    sent = [encode(Kind.RESULT, number, bytes(5000), attempt=1) for number in range(10)]
    end.peer.sendall(b"".join(sent))
    assert [frame.raw for frame in end.hear(10)] == sent
    short.most = 1 << 30
    end.peer.sendall(sent[0])
    assert end.hear(11)[-1].raw == sent[0]


def test_where_there_is_no_memory_at_all_room_is_made_and_nothing_is_lost(end: End, short: Short) -> None:
    def make_room() -> bool:
        short.most = 1 << 30
        return True

    end.link.on_shortage = make_room
    sent = [encode(Kind.RESULT, number, bytes(5000), attempt=1) for number in range(10)]
    end.peer.sendall(b"".join(sent))
    assert [frame.raw for frame in end.hear(10)] == sent


def test_where_no_room_can_be_made_the_owner_hears_of_it(end: End, short: Short) -> None:
    asked: list[int] = []
    end.link.on_shortage = lambda: bool(asked.append(1))
    end.peer.sendall(encode(Kind.PONG))
    with pytest.raises(MemoryError):
        end.loop.run()
    assert asked == [1]


@pytest.mark.parametrize("pending", [0, 10], ids=["nothing pending", "half a frame pending"])
def test_bytes_for_whose_frames_there_is_no_memory_are_taken_once_there_is(
    end: End, monkeypatch: pytest.MonkeyPatch, pending: int
) -> None:
    sent = [encode(Kind.RESULT, number, b"value", attempt=1) for number in range(3)]
    data = b"".join(sent)
    if pending:
        assert end.link._decoder.feed(data[:pending]) == []
    split, failures = Decoder._split, iter([True, True, False])

    def fail(decoder: Decoder, data: bytes, frames: list[Frame]) -> int:
        position = split(decoder, data, frames)
        if next(failures, False):
            raise MemoryError
        return position

    monkeypatch.setattr(Decoder, "_split", fail)
    end.link.on_shortage = lambda: True
    end.peer.sendall(data[pending:])
    assert [frame.raw for frame in end.hear(3)] == sent
