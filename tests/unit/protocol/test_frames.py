"""The wire: any split gives the same frames, garbage gives frames or ProtocolError, nothing is allocated ahead."""

from __future__ import annotations

import random
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.frames import (
    CHUNK_SIZE,
    HEADER,
    HEADER_SIZE,
    KIND_NUMBERS,
    LONG_FRAME,
    MAX_FRAME,
    MAX_HANDSHAKE_FRAME,
    PROTOCOL_VERSION,
    TRUST,
    Decoder,
    Flag,
    Frame,
    Kind,
    encode,
)

SLACK = 64 * 1024

frames = st.builds(
    lambda kind, call_id, payload, flags, attempt, detail: encode(
        kind, call_id, payload, flags=flags, attempt=attempt, detail=detail
    ),
    st.sampled_from(sorted(KIND_NUMBERS)),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=300),
    st.integers(0, 255),
    st.integers(0, 2**16 - 1),
    st.integers(0, 2**32 - 1),
)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at these places."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def feed_all(decoder: Decoder, pieces: list[bytes]) -> list[Frame]:
    """What the decoder makes of the pieces, the ones that it gives one by one included."""
    found: list[Frame] = []
    for piece in pieces:
        got = decoder.feed(piece)
        while got:
            found += got
            got = decoder.feed(b"") if decoder.pending else []
    return found


@given(st.lists(frames, max_size=8), st.lists(st.integers(0, 10**6), max_size=20), st.booleans())
def test_any_split_of_the_bytes_gives_the_same_frames(sent: list[bytes], cuts: list[int], one_by_one: bool) -> None:
    decoder = Decoder(one_by_one=one_by_one)
    found = feed_all(decoder, split(b"".join(sent), cuts))
    assert [frame.raw for frame in found] == sent
    assert decoder.pending == 0
    for frame in found:
        again = encode(
            frame.kind,
            frame.call_id,
            bytes(frame.payload),
            flags=frame.flags,
            attempt=frame.attempt,
            detail=frame.detail,
        )
        assert again == frame.raw


@given(st.lists(frames, min_size=1, max_size=4), st.integers(1, 10**6))
def test_a_truncated_stream_gives_whole_frames_and_keeps_the_rest(sent: list[bytes], cut: int) -> None:
    data = b"".join(sent)
    kept = data[: cut % len(data)]
    decoder = Decoder()
    found = feed_all(decoder, [kept])
    assert sum(len(frame.raw) for frame in found) + decoder.pending == len(kept)


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=200), max_size=10))
def test_garbage_gives_frames_or_a_protocol_error(pieces: list[bytes]) -> None:
    decoder = Decoder()
    try:
        found = feed_all(decoder, pieces)
    except ProtocolError as error:
        with pytest.raises(ProtocolError, match=r".*"):
            decoder.feed(b"x" * HEADER_SIZE)
        assert str(error)
    else:
        assert all(frame.kind in KIND_NUMBERS for frame in found)


@given(st.binary(min_size=HEADER_SIZE, max_size=400), st.integers(0, 400), st.integers(1, 255))
def test_a_flipped_byte_never_gives_anything_but_frames_or_a_protocol_error(tail: bytes, place: int, flip: int) -> None:
    data = bytearray(encode(Kind.CALL, 7, tail, attempt=1) + encode(Kind.PING))
    data[place % len(data)] ^= flip
    decoder = Decoder()
    try:
        found = decoder.feed(bytes(data))
    except ProtocolError:
        assert decoder.pending == 0
    else:
        assert sum(len(frame.raw) for frame in found) + decoder.pending == len(data)


@pytest.mark.parametrize("length", [2**63, 2**32, MAX_FRAME + 1])
def test_a_length_that_lies_is_refused_at_the_header(length: int) -> None:
    with pytest.raises(ProtocolError, match=r"frame of \d+ bytes, more than \d+"):
        Decoder().feed(HEADER.pack(Kind.CALL, 0, 1, 0, 1, length))


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ProtocolError, match="unknown kind of frame: 99"):
        Decoder().feed(HEADER.pack(99, 0, 0, 0, 0, 0))


def test_before_the_handshake_frames_are_small_and_the_limit_can_rise_between_two() -> None:
    decoder = Decoder(MAX_HANDSHAKE_FRAME, one_by_one=True)
    large = encode(Kind.SETUP, payload=b"s" * (MAX_HANDSHAKE_FRAME + 1))
    (welcome,) = decoder.feed(encode(Kind.WELCOME, payload=b"{}") + large)
    assert welcome.kind == Kind.WELCOME
    decoder.max_frame, decoder.one_by_one = MAX_FRAME, False
    assert [frame.raw for frame in decoder.feed(b"")] == [large]
    with pytest.raises(ProtocolError, match=r"frame of \d+ bytes, more than \d+"):
        Decoder(MAX_HANDSHAKE_FRAME, one_by_one=True).feed(large)


@pytest.mark.parametrize("claimed", [MAX_FRAME, MAX_FRAME // 2])
def test_nothing_is_allocated_ahead_of_what_has_arrived(claimed: int) -> None:
    header = HEADER.pack(Kind.CALL, 0, 1, 0, 1, claimed)
    arrived = 1000
    decoder = Decoder()
    tracemalloc.start()
    try:
        assert decoder.feed(header + b"x" * arrived) == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * (HEADER_SIZE + arrived) + SLACK


KINDS = [
    "HELLO",
    "WELCOME",
    "REFUSE",
    "SETUP",
    "PING",
    "PONG",
    "CALL",
    "CHUNK",
    "PULL",
    "KILL",
    "STOP",
    "READY",
    "STARTED",
    "RESULT",
    "RETURNED",
    "LOST",
    "TIMED_OUT",
    "GONE",
    "SETUP_FAILED",
    "CHECK_IDLE",
    "IDLE",
    "SLOT_UP",
    "SLOT_DOWN",
    "BYE",
    "OUTPUT",
    "SYNC_BEGIN",
    "SYNC_HAVE",
    "SYNC_DATA",
    "SYNC_END",
    "DIAL",
    "CHALLENGE",
    "PROOF",
    "PARENT_PROOF",
    "VERSIONS",
    "LOG_LEVEL",
    "DRAIN",
    "SHARED_WANT",
    "SHARED_DATA",
    "SHARED_FILE",
    "SHARED_FORGET",
    "ITEMS",
    "PROGRESS",
    "OBJECT_REQUEST",
    "OBJECT_REPLY",
    "WAIT",
    "KEEP_RESULTS",
    "KEPT_RESULT",
]
FLAGS = {
    "ERROR": 1,
    "RETRYABLE": 2,
    "MORE": 4,
    "OPTIONS": 8,
    "LZ4": 8,  # of CHUNK, as the next
    "ZSTD": 16,
    "LARGE": 16,
    "SHARED": 32,
    "STDERR": 32,  # of other kinds than SHARED
    "ITEM": 64,
    "LOG": 64,  # of other kinds than ITEM
    "PIECES": 128,
    "END": 128,
}
TABLE_OF_VERSION = 8


def test_the_version_of_the_protocol_is_that_of_its_table() -> None:
    """Whoever changes the table raises PROTOCOL_VERSION, and both here."""
    assert {kind.name: int(kind) for kind in Kind} == {name: number for number, name in enumerate(KINDS, 1)}
    assert {name: bit for name, bit in vars(Flag).items() if name.isupper()} == FLAGS
    assert PROTOCOL_VERSION == TABLE_OF_VERSION


@pytest.mark.parametrize("kind", [0, len(KINDS) + 1, 255])
def test_an_unknown_kind_ends_the_link(kind: int) -> None:
    """Ends of one version know the same kinds, so this is no newer peer."""
    with pytest.raises(ProtocolError, match=str(kind)):
        list(Decoder().feed(HEADER.pack(kind, 0, 0, 0, 0, 0)))


@settings(max_examples=40)
@given(st.lists(st.sampled_from([0, 10, LONG_FRAME, CHUNK_SIZE]), min_size=1, max_size=4), st.integers(0, 2**32))
def test_a_long_frame_is_received_in_place_or_fed_in_any_pieces(sizes: list[int], seed: int) -> None:
    rng = random.Random(seed)
    stream = memoryview(b"".join(encode(Kind.CHUNK, number, bytes(size)) for number, size in enumerate(sizes)))
    decoder, frames, position = Decoder(), [], 0
    while position < len(stream):
        gap = decoder.gap()
        step = rng.choice([1, HEADER_SIZE, 30_000, 100_000, 300_000])
        if gap is not None and rng.random() < 0.5:
            count = min(step, len(gap), len(stream) - position)
            gap[:count] = stream[position : position + count]
            frames += decoder.filled(count)
        else:
            count = min(step, len(stream) - position)
            frames += decoder.feed(bytes(stream[position : position + count]))
        position += count
    assert decoder.pending == 0
    assert [(frame.call_id, len(frame.payload)) for frame in frames] == list(enumerate(sizes))
    assert b"".join(frame.raw for frame in frames) == stream


@given(st.integers(LONG_FRAME, MAX_FRAME), st.integers(HEADER_SIZE, MAX_FRAME))
def test_a_claimed_length_allocates_at_most_a_multiple_of_what_has_arrived(size: int, arrived: int) -> None:
    decoder = Decoder()
    data = encode(Kind.CHUNK, 1, bytes(size))[: min(arrived, HEADER_SIZE + size - 1)]
    assert decoder.feed(data) == []
    gap = decoder.gap()
    assert (0 if gap is None else len(data) + len(gap)) <= TRUST * len(data)


def test_a_long_frame_waits_for_the_end_of_the_handshake() -> None:
    decoder = Decoder(MAX_FRAME, one_by_one=True)
    decoder.feed(encode(Kind.CHUNK, 1, bytes(CHUNK_SIZE))[:-1])
    assert decoder.gap() is None
