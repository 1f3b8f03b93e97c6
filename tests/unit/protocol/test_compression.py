"""When compression pays, and what a compressed chunk may claim."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.compression import (
    GAIN,
    GOOD_RATIO,
    SAMPLE_EVERY,
    SAMPLE_SIZE,
    Compressor,
    Sample,
    choose,
    chunk_size,
)
from dragonfly_executor.protocol.frames import CHUNK_SIZE, HEADER, HEADER_SIZE, Decoder, Flag, Frame, Kind, encode


class Halving:
    """Something that makes half as many bytes, and takes a time for each byte."""

    flag = Flag.LZ4

    def __init__(self, ratio: float = 0.5, cost: float = 0.0) -> None:
        self.ratio = ratio
        self.cost = cost
        self.now = 0.0
        self.sizes: list[int] = []

    def compress(self, data: bytes | bytearray | memoryview) -> bytes:
        self.now += self.cost * len(data)
        self.sizes.append(len(data))
        return bytes(int(len(data) * self.ratio))


class Link:
    """The rate of a link."""

    def __init__(self, rate: float | None = None) -> None:
        self.rate = rate
        self.is_high = False

    def per_second(self) -> float | None:
        return self.rate


def chunk(payload: bytes, flags: int = 0, detail: int = 0) -> Frame:
    (found,) = Decoder().feed(encode(Kind.CHUNK, 7, payload, flags=flags, attempt=2, detail=detail))
    return found


def header(size: int) -> bytes:
    return HEADER.pack(Kind.CHUNK, Flag.MORE, 2, 0, 7, size)


ratios = st.floats(0.001, 1.1)
costs = st.floats(0, 1e-6)
rates = st.floats(1e3, 1e11)


@given(st.lists(st.tuples(ratios, costs), max_size=3), st.none() | rates)
def test_the_choice_is_never_slower_than_no_compression(found: list[tuple[float, float]], rate: float | None) -> None:
    samples = [Sample(Halving(), ratio, cost) for ratio, cost in found]
    codec = choose(samples, rate)
    times = [sample.ratio if rate is None else sample.cost + sample.ratio / rate for sample in samples]
    plain = 1.0 if rate is None else 1 / rate
    if codec is None:
        least = GOOD_RATIO if rate is None else GAIN
        assert all(time > least * plain * (1 - 1e-9) for time in times)
    else:
        chosen = next(time for sample, time in zip(samples, times, strict=True) if sample.codec is codec)
        assert chosen < plain
        assert chosen <= min(times) * (1 + 1e-9)


@given(ratios, costs, rates, rates)
def test_what_pays_on_a_fast_link_pays_on_a_slower_one(ratio: float, cost: float, rate: float, other: float) -> None:
    slow, fast = sorted((rate, other))
    sample = Sample(Halving(), ratio, cost)
    assert choose([sample], fast) is None or choose([sample], slow) is not None


def test_a_fast_link_takes_the_cheap_codec_and_a_slow_link_the_thorough_one() -> None:
    """The figures of the decision page: lz4 and zstd on numbers."""
    lz4, zstd = Halving(), Halving()
    samples = [Sample(lz4, 0.52, 1.3e-9), Sample(zstd, 0.35, 3.0e-9)]
    assert choose(samples, 10e6) is zstd
    assert choose(samples, 250e6) is lz4
    assert choose(samples, 2e9) is None
    assert choose([], 10e6) is None


@pytest.mark.parametrize("detail", [0, CHUNK_SIZE + 1, 2**32 - 1])
def test_a_compressed_chunk_is_no_larger_than_chunks_are(detail: int) -> None:
    with pytest.raises(ProtocolError, match="a compressed chunk of"):
        chunk_size(chunk(b"x", Flag.ZSTD, detail))


def test_a_chunk_has_one_codec() -> None:
    with pytest.raises(ProtocolError, match="two codecs"):
        chunk_size(chunk(b"x", Flag.ZSTD | Flag.LZ4, 10))


def test_the_size_of_a_chunk() -> None:
    assert chunk_size(chunk(b"four", Flag.MORE)) == 4
    assert chunk_size(chunk(b"four", Flag.MORE | Flag.LZ4, 1000)) == 1000


def test_a_chunk_that_shrinks_keeps_its_call_and_says_its_size() -> None:
    codec = Halving()
    head, piece = Compressor([codec], Link(), lambda: 0.0).compress(header(CHUNK_SIZE), memoryview(bytes(CHUNK_SIZE)))
    expected = (Kind.CHUNK, Flag.MORE | Flag.LZ4, 2, CHUNK_SIZE, 7, CHUNK_SIZE // 2)
    assert HEADER.unpack(head) == expected
    assert len(piece) == CHUNK_SIZE // 2


def test_a_chunk_that_does_not_shrink_is_plain() -> None:
    codec = Halving()
    compressor = Compressor([codec], Link(), lambda: 0.0)
    piece = memoryview(os.urandom(CHUNK_SIZE))
    compressor.compress(header(CHUNK_SIZE), piece)
    codec.ratio = 0.99
    head, sent = compressor.compress(header(CHUNK_SIZE), piece)
    assert (head, sent) == (header(CHUNK_SIZE), piece)


def test_the_sample_is_small_and_taken_again_after_a_while() -> None:
    codec = Halving(ratio=1.0)
    compressor = Compressor([codec], Link(1e6), lambda: 0.0)
    for _ in range(2 * SAMPLE_EVERY):
        compressor.compress(header(CHUNK_SIZE), memoryview(bytes(CHUNK_SIZE)))
    assert codec.sizes == [SAMPLE_SIZE, SAMPLE_SIZE]


def travel(compressor: Compressor, count: int) -> list[bool]:
    """Whether these chunks are compressed."""
    piece = memoryview(bytes(CHUNK_SIZE))
    heads = [compressor.compress(header(CHUNK_SIZE), piece)[0] for _ in range(count)]
    return [bool(HEADER.unpack(head)[1] & Flag.LZ4) for head in heads]


def test_a_rate_that_becomes_known_counts_at_once() -> None:
    codec, link = Halving(cost=1e-8), Link()
    compressor = Compressor([codec], link, lambda: codec.now)
    assert travel(compressor, 3) == [True] * 3
    link.rate = 100e6
    assert travel(compressor, 3) == [False] * 3


def test_on_a_link_that_a_codec_never_fills_the_rest_of_a_payload_is_plain() -> None:
    """Its rate is not measured as long as the codec is slower than the link."""
    codec, link = Halving(cost=1e-8), Link()
    compressor = Compressor([codec], link, lambda: codec.now)
    assert travel(compressor, SAMPLE_EVERY) == [True] * SAMPLE_EVERY
    assert travel(compressor, 3) == [False] * 3
    assert not link.is_high, "only a codec has been too slow for it"
    link.rate = 10e6
    assert travel(compressor, 3) == [True] * 3, "the link is slow, as is known now"


def test_a_link_that_is_never_full_needs_no_codec_for_the_next_payload_either() -> None:
    codec, link = Halving(), Link()
    travel(Compressor([codec], link, lambda: 0.0), 2 * SAMPLE_EVERY + 1)
    assert link.is_high
    assert travel(Compressor([codec], link, lambda: 0.0), 3) == [False] * 3
    link.rate = 10e6
    assert travel(Compressor([codec], link, lambda: 0.0), 3) == [True] * 3


def test_small_chunks_are_no_sample() -> None:
    """The first chunk of a payload is often a head of some hundred bytes."""
    codec = Halving()
    compressor = Compressor([codec], Link(), lambda: 0.0)
    assert compressor.compress(header(100), memoryview(bytes(100))) == (header(100), bytes(100))
    assert codec.sizes == []


def test_the_work_is_weighed_against_the_rate() -> None:
    codec = Halving(cost=1e-8)
    for rate, flags in ((10e6, Flag.MORE | Flag.LZ4), (100e6, Flag.MORE)):
        compressor = Compressor([codec], Link(rate), lambda: codec.now)
        head, _ = compressor.compress(header(CHUNK_SIZE), memoryview(bytes(CHUNK_SIZE)))
        assert HEADER.unpack(head)[1] == flags


def test_without_memory_for_the_work_a_chunk_is_plain() -> None:
    class Full(Halving):
        def compress(self, data: bytes | bytearray | memoryview) -> bytes:
            raise MemoryError

    head, piece = Compressor([Full()], Link(), lambda: 0.0).compress(header(CHUNK_SIZE), memoryview(bytes(CHUNK_SIZE)))
    assert len(head) == HEADER_SIZE
    assert len(piece) == CHUNK_SIZE
