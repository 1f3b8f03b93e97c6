"""The items of a stream at the slot's end, with the test as agent and parent."""

from __future__ import annotations

import pickle
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dragonfly_executor.protocol.frames import HEADER_SIZE, Decoder, Flag, Frame, Kind, encode
from dragonfly_executor.protocol.memory_bounds import STREAM_BYTES
from dragonfly_executor.runner.agent_stream import AgentStream
from dragonfly_executor.runner.item_sender import ItemSender
from dragonfly_executor.runner.late_job import LateJob
from tests.support.codec_pair import CodecPair
from tests.support.helpers import PATIENCE

REF = (7, 1)
CODEC = CodecPair()


class Parent:
    """The other end of a slot's stream."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._decoder = Decoder()
        self._frames: list[Frame] = []
        sock.settimeout(PATIENCE)

    def frame(self) -> Frame:
        while not self._frames:
            self._frames += self._decoder.feed(self._sock.recv(1 << 20))
        return self._frames.pop(0)

    def items(self) -> list[Any]:
        """The items of the next batch, and nothing else."""
        frame = self.frame()
        assert (frame.kind, frame.call_id, frame.attempt, frame.flags) == (Kind.ITEMS, *REF, 0)
        plain, encoded = pickle.loads(frame.payload)
        assert len(plain) + len(encoded) == frame.detail
        return [*plain, *map(CODEC.codec.decode_result, encoded)]

    def say(self, detail: int = 0, flags: int = 0, ref: tuple[int, int] = REF) -> None:
        self._sock.sendall(encode(Kind.ITEMS, ref[0], attempt=ref[1], detail=detail, flags=flags))

    @property
    def has_more(self) -> bool:
        self._sock.setblocking(False)
        try:
            return bool(self._frames) or bool(self._sock.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return False
        finally:
            self._sock.settimeout(PATIENCE)


class Steps:
    """An iterator whose steps the test waits for."""

    def __init__(self, items: list[Any]) -> None:
        self._items = items
        self.asked = 0
        self.changed = threading.Condition()

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            with self.changed:
                self.asked += 1
                self.changed.notify_all()
            yield item

    def wait(self, count: int) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.asked >= count, PATIENCE)


@pytest.fixture
def ends() -> Iterator[tuple[AgentStream, Parent]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield AgentStream(ours), Parent(theirs)


def sending(agent: AgentStream, items: Any, window: int) -> threading.Thread:
    sender = ItemSender(agent, CODEC.slot, REF, window, 1 << 30)
    thread = threading.Thread(target=lambda: sender.send(iter(items)))
    thread.start()
    return thread


def test_the_function_waits_for_room(ends: tuple[AgentStream, Parent]) -> None:
    agent, parent = ends
    steps = Steps(list(range(5)))
    thread = sending(agent, steps, 1)
    for number in range(5):
        assert parent.items() == [number]
        assert steps.wait(number + 1)
        assert steps.asked == number + 1
        parent.say(1, ref=(7, 2))  # to another attempt
        parent.say(1, ref=(8, 1))  # to another call
        assert not parent.has_more
        parent.say(1)
    thread.join()


def test_bytes_fill_the_window_too(ends: tuple[AgentStream, Parent]) -> None:
    agent, parent = ends
    size = STREAM_BYTES // 8
    steps = Steps([bytes(size)] * 9)
    thread = sending(agent, steps, 1000)
    for _ in range(8):
        assert len(parent.items()[0]) == size
    assert not parent.has_more
    assert steps.asked == 8
    parent.say(1)
    assert len(parent.items()[0]) == size
    parent.say(1)  # the iterator is asked for its end only when there is room
    thread.join()


def test_a_closed_stream_ends_at_the_next_item(ends: tuple[AgentStream, Parent]) -> None:
    agent, parent = ends
    steps = Steps(list(range(10**6)))
    thread = sending(agent, steps, 1)
    assert parent.items() == [0]
    parent.say(flags=Flag.END)
    thread.join()
    assert steps.asked == 1
    assert not parent.has_more


def test_a_large_item_comes_in_pieces_that_are_confirmed(ends: tuple[AgentStream, Parent]) -> None:
    agent, parent = ends
    item = bytes(range(256)) * 16_384
    thread = sending(agent, [item], 10)
    data = b""
    while True:
        frame = parent.frame()
        data += frame.payload
        if not frame.flags & Flag.MORE:
            break
        parent.say(len(frame.payload), flags=Flag.MORE)
    parent.say(1)
    thread.join()
    assert CODEC.codec.decode_result(pickle.loads(data)[1][0]) == item


def test_messages_to_calls_that_have_ended_are_skipped(ends: tuple[AgentStream, Parent]) -> None:
    agent, parent = ends
    assert agent.receive_message(wait=False) is None
    parent.say(3)
    assert agent.receive_message(wait=True) == (0, REF, 3)
    parent.say(1)
    parent.say(flags=Flag.END)
    parent._sock.sendall(encode(Kind.CHUNK, 9, b"chunk", attempt=1))
    header = bytearray(HEADER_SIZE)
    agent.receive_header(memoryview(header))
    assert header[0] == Kind.CHUNK


def test_a_late_job_runs_until_it_has_nothing_to_do() -> None:
    done = threading.Semaphore(0)
    left = [3]

    def job() -> bool:
        left[0] -= 1
        if not left[0]:
            late.is_armed = False
            done.release()
        return late.is_armed

    late = LateJob(job, 0.001)
    for _ in range(2):
        for _ in range(3):
            left[0] = 3
            assert late.arm()
            assert done.acquire(timeout=PATIENCE)
        late.end()
        assert not late.is_armed
    late.end()
    assert left == [0]
