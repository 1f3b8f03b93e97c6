"""The order of a slot's answers: of frames on its stream, and of results in its ring."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor.core.slot_records import SlotCall
from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.frames import Decoder, Flag, Frame, Kind, encode
from dragonfly_executor.runner.result_ring import SIZE, ResultRing
from dragonfly_executor.runner.slot_link import SlotLink, in_order, is_last_of_answer, split_results, times_in_order
from dragonfly_executor.transport.sockets import PairedSocket, socketpair

SECOND = 1_000_000


def result(call_id: int, *, attempt: int = 1, microseconds: int = SECOND, flags: int = 0) -> bytes:
    return encode(Kind.RESULT, call_id, b"r", attempt=attempt, detail=microseconds, flags=flags)


def output(call_id: int) -> bytes:
    return encode(Kind.OUTPUT, call_id, b"text", attempt=1)


def call(call_id: int, attempt: int = 1) -> SlotCall:
    return SlotCall(call_id, attempt, b"")


def frames_of(*raw: bytes) -> list[Frame]:
    return Decoder().feed(b"".join(raw))


# -- results that follow each other ------------------------------------------------------------------------------------


def test_results_of_the_first_calls_are_in_order() -> None:
    data = result(1, microseconds=2 * SECOND) + result(2, microseconds=SECOND // 2)
    assert times_in_order(data, [call(1), call(2), call(3)]) == [2.0, 0.5]


@pytest.mark.parametrize(
    "data",
    [
        result(2),
        result(1, attempt=2),
        result(1) + result(3),
        result(1) + result(2) + result(3),
        output(1),
        result(1)[:-1],
        result(1) + b"x",
        result(1) + result(2)[:20],
    ],
    ids=range(8),
)
def test_other_results_and_other_bytes_are_not_in_order(data: bytes) -> None:
    assert times_in_order(data, [call(1), call(2)]) is None


def test_results_of_no_call_are_not_in_order() -> None:
    assert times_in_order(result(1), []) is None


@pytest.mark.parametrize("data", [output(1), result(1)[:-1], b"\xff" * 24], ids=range(3))
def test_only_whole_results_come_through_the_ring(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        split_results(result(7) + data)


def test_a_result_in_chunks_ends_with_its_last_chunk() -> None:
    parts = frames_of(
        result(1, flags=Flag.LARGE | Flag.MORE),
        encode(Kind.CHUNK, 1, b"c", attempt=1, flags=Flag.MORE),
        encode(Kind.CHUNK, 1, b"c", attempt=1),
        result(1),
        encode(Kind.RETURNED, 1, attempt=1),
        encode(Kind.IDLE),
        output(1),
        encode(Kind.PULL, 1),
    )
    assert [is_last_of_answer(frame) for frame in parts] == [False, False, True, True, True, True, False, False]


# -- any order ---------------------------------------------------------------------------------------------------------

WAYS = ("ring", "stream", "text first", "in chunks", "returned")


def sent(call_id: int, way: str) -> tuple[list[bytes], list[bytes]]:
    """What a slot sends for one call: on its stream, and through its ring."""
    match way:
        case "ring":
            return [], [result(call_id)]
        case "stream":
            return [result(call_id)], []
        case "text first":
            return [output(call_id), result(call_id)], []
        case "in chunks":
            chunks = [encode(Kind.CHUNK, call_id, b"c", attempt=1, flags=flags) for flags in (Flag.MORE, 0)]
            return [result(call_id, flags=Flag.LARGE | Flag.MORE), *chunks], []
        case _:
            return [encode(Kind.RETURNED, call_id, attempt=1)], []


@given(ways=st.lists(st.sampled_from(WAYS), max_size=12), data=st.data())
def test_answers_are_passed_on_in_the_order_of_the_slot(ways: list[str], data: st.DataObject) -> None:
    """The agent looks at any moment. It then has read a part of the stream, and all results from before that."""
    whole: list[bytes] = []
    stream: list[tuple[int, bytes]] = []
    ring: list[tuple[int, bytes]] = []
    for call_id, way in enumerate(ways, 1):
        frames, results = sent(call_id, way)
        for sequence, raw in ((stream, frames), (ring, results)):
            for frame in raw:
                sequence.append((len(whole), frame))
                whole.append(frame)
    calls = deque(call(number) for number in range(1, len(ways) + 1))
    passed: list[bytes] = []
    early: Sequence[Frame] = ()
    read = taken = 0
    while read < len(stream) or taken < len(ring) or early:
        before = read
        read = data.draw(st.integers(read, len(stream)))
        # Results that the slot wrote before the last of these frames have come, and perhaps later ones.
        least = sum(place < stream[read - 1][0] for place, _ in ring) if read else 0
        taken_before, taken = taken, data.draw(st.integers(max(taken, least), len(ring)))
        fresh = frames_of(*(frame for _, frame in ring[taken_before:taken]))
        ordered, early = in_order(
            frames_of(*(frame for _, frame in stream[before:read])), [*early, *fresh], [one.ref for one in calls]
        )
        for frame in ordered:
            passed.append(frame.raw)
            if is_last_of_answer(frame):
                calls.popleft()
        if early:
            # Frames that precede these results are on the stream.
            assert read < len(stream)
    assert passed == whole


# -- the link ----------------------------------------------------------------------------------------------------------


class FakeLoop:
    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], object]] = {}

    def time(self) -> float:
        return 0.0

    def add_reader(self, fd: int, callback: Callable[[], object]) -> None:
        self.readers[fd] = callback

    def remove_reader(self, fd: int) -> None:
        self.readers.pop(fd, None)

    def remove_writer(self, fd: int) -> None:
        pass


class Both:
    """A slot's stream and ring, and what the agent gets."""

    def __init__(self, *calls: int) -> None:
        self.slot_end: PairedSocket
        self.slot_end, own = socketpair()
        ring = ResultRing.make()
        assert ring is not None
        self.ring = ring
        self.written = 0
        self.calls = deque(map(call, calls))
        self.got: list[bytes] = []
        self.batches = 0
        self.broken = 0
        self.loop = FakeLoop()
        self.on_frame: Callable[[Frame], None] = lambda frame: None
        self.link = SlotLink(
            self.loop,  # type: ignore[arg-type]
            own,
            ring,
            lambda: self.calls,
            on_frames=self._frames,
            on_results=self._results,
            on_broken=self._break,
        )

    def _frames(self, frames: list[Frame]) -> None:
        for frame in frames:
            self.got.append(frame.raw)
            if is_last_of_answer(frame):
                self.calls.popleft()
            self.on_frame(frame)

    def _results(self, data: bytes, times: list[float]) -> None:
        self.batches += 1
        for frame in split_results(data):
            self.got.append(frame.raw)
            self.calls.popleft()

    def _break(self) -> None:
        self.broken += 1

    def put(self, frame: bytes) -> None:
        """Write a result as the slot does."""
        writer: Any = ResultRing.__new__(ResultRing)
        writer.__dict__.update(self.ring.__dict__)
        writer._position = self.written
        assert writer.put(frame)
        self.written = writer._position

    def close(self) -> None:
        self.link.close()
        self.link.close_ring()
        self.slot_end.close()


@pytest.fixture
def both() -> Iterator[Both]:
    both = Both(1, 2, 3, 4)
    yield both
    both.close()


linux = pytest.mark.skipif(not hasattr(os, "eventfd"), reason="the ring needs an eventfd")


@linux
def test_results_in_the_ring_are_passed_on_as_one_piece(both: Both) -> None:
    both.put(result(1))
    both.put(result(2))
    both.loop.readers[both.ring.fileno()]()
    assert both.got == [result(1), result(2)]
    assert both.batches == 1


@linux
def test_a_result_in_the_ring_waits_for_the_answer_before_it(both: Both) -> None:
    """The agent may see the doorbell first."""
    both.put(result(1))
    both.slot_end.sendall(output(2) + result(2))
    both.put(result(3))
    both.loop.readers[both.ring.fileno()]()
    assert both.got == [result(1), output(2), result(2), result(3)]


@linux
def test_a_frame_on_the_stream_waits_for_the_results_before_it(both: Both) -> None:
    both.put(result(1))
    both.slot_end.sendall(output(2))
    both.loop.readers[both.link.fileno()]()
    assert both.got == [result(1), output(2)]


@linux
@pytest.mark.parametrize("paused", [True, False])
def test_the_agent_reads_both_when_it_looks(both: Both, paused: bool) -> None:
    """A paused link is read when the agent must know whether a call is answered."""
    if paused:
        both.link.pause()
    both.slot_end.sendall(result(1))
    both.put(result(2))
    both.link.drain_reads()
    assert both.got == ([] if paused else [result(1), result(2)])
    both.link.drain_until(lambda: False)
    assert both.got == [result(1), result(2)]


@linux
def test_the_agent_reads_no_further_than_it_must(both: Both) -> None:
    both.put(result(1))
    both.link.drain_until(lambda: True)
    assert not both.got
    both.slot_end.sendall(output(2))
    both.put(result(3))
    both.link.drain_until(lambda: len(both.got) == 2)
    assert both.got == [result(1), output(2)]
    both.slot_end.sendall(result(2))
    both.loop.readers[both.link.fileno()]()
    assert both.got == [result(1), output(2), result(2), result(3)]


@linux
def test_a_paused_link_reads_neither(both: Both) -> None:
    both.link.pause()
    both.link.pause()
    assert not both.loop.readers
    both.link.resume()
    assert not both.loop.readers
    both.link.resume()
    assert both.loop.readers.keys() == {both.link.fileno(), both.ring.fileno()}


@linux
def test_a_pause_between_keeps_the_results_until_it_ends(both: Both) -> None:
    both.slot_end.sendall(output(1))
    both.put(result(2))
    both.on_frame = lambda frame: both.link.pause() if frame.kind == Kind.OUTPUT else None
    both.loop.readers[both.ring.fileno()]()
    assert both.got == [output(1)]
    both.slot_end.sendall(result(1))
    both.link.resume()
    both.loop.readers[both.link.fileno()]()
    assert both.got == [output(1), result(1), result(2)]


@linux
def test_the_ring_is_read_after_the_stream_has_ended(both: Both) -> None:
    """A call may close the slot's end of the stream, and end."""
    both.slot_end.close()
    both.loop.readers[both.link.fileno()]()
    assert both.link.closed
    both.put(result(1))
    both.loop.readers[both.ring.fileno()]()
    both.put(result(2))
    both.link.drain_until(lambda: False)
    assert both.got == [result(1), result(2)]


@linux
@pytest.mark.parametrize("frame", [result(3), output(1), result(1)[:-1]], ids=range(3))
def test_a_ring_with_other_bytes_is_reported(both: Both, frame: bytes) -> None:
    both.put(frame)
    both.link.drain_reads()
    assert both.broken == 1
    assert not both.got


@linux
def test_a_ring_with_an_impossible_size_is_reported(both: Both) -> None:
    os.eventfd_write(both.ring.fileno(), SIZE + 1)
    both.loop.readers[both.ring.fileno()]()
    assert both.broken == 1
    # Nothing more is read from it, and the loop is not woken for it.
    assert both.ring.fileno() not in both.loop.readers
    both.put(result(1))
    both.slot_end.sendall(output(1))
    both.loop.readers[both.link.fileno()]()
    both.link.drain_until(lambda: False)
    both.link.pause()
    both.link.resume()
    assert both.loop.readers.keys() == {both.link.fileno()}
    assert both.broken == 1
    assert both.got == [output(1)]


@linux
def test_an_impossible_size_is_found_behind_a_frame_too(both: Both) -> None:
    os.eventfd_write(both.ring.fileno(), SIZE + 1)
    both.slot_end.sendall(output(1))
    both.loop.readers[both.link.fileno()]()
    assert both.broken == 1
    assert both.got == [output(1)]


@linux
def test_a_closed_ring_is_left_alone(both: Both) -> None:
    number = both.ring.fileno()
    assert both.link.descriptors() == {both.link.fileno(), number}
    both.link.pause()
    both.link.close_ring()
    both.link.close_ring()
    both.link.resume()
    assert number not in both.loop.readers
    both.slot_end.sendall(result(1))
    both.loop.readers[both.link.fileno()]()
    both.link.drain_reads()
    assert both.got == [result(1)]
    assert both.link.descriptors() == {both.link.fileno()}
    both.link.close()
    assert both.link.descriptors() == set()
