"""The slot's end of chunks: one that cannot be opened fails its call, and the stream stays in step."""

from __future__ import annotations

from typing import Any

import pytest

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.frames import CHUNK_SIZE, Decoder, Flag, Kind, encode
from dragonfly_executor.runner.slot_chunks import SlotChunks
from dragonfly_executor.transport.codecs import Codecs, load

NAMES = ("zstd", "lz4")


class FakeStream:
    """An agent that has sent some bytes, and keeps what it is sent."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data
        self.sent = b""

    def receive_into(self, view: memoryview) -> None:
        assert len(self.data) >= len(view), "the stream is out of step"
        view[:] = self.data[: len(view)]
        self.data = self.data[len(view) :]

    def receive_header(self, header: memoryview) -> None:
        self.receive_into(header)

    def send_chunk(self, header: bytes, piece: bytes | memoryview) -> None:
        self.sent += header + bytes(piece)


def chunk(payload: bytes, flags: int = 0, size: int = 0) -> bytes:
    return encode(Kind.CHUNK, 1, payload, flags=flags, attempt=1, detail=size)


def packed(data: bytes, name: str = "lz4", claimed: int | None = None) -> bytes:
    codec = load(name)
    return chunk(codec.compress(data), codec.flag, len(data) if claimed is None else claimed)


def taking(*chunks: bytes) -> tuple[SlotChunks, FakeStream]:
    stream: Any = FakeStream(b"".join(chunks) + b"next")
    return SlotChunks(stream, Codecs(NAMES)), stream


def test_compressed_and_plain_chunks_make_one_payload() -> None:
    chunks, stream = taking(packed(b"a" * 1000), chunk(b"b" * 10), packed(b"c" * 1000, "zstd"))
    room = bytearray(2010)
    chunks.take(0, 2010, memoryview(room))
    chunks.check()
    assert room == b"a" * 1000 + b"b" * 10 + b"c" * 1000
    assert stream.data == b"next"


@pytest.mark.parametrize(
    "bad",
    [
        chunk(b"garbage", Flag.ZSTD, 1000),
        packed(b"a" * 1500, claimed=1000),
        packed(b"a" * 500, claimed=1000),
        chunk(b"x", Flag.ZSTD | Flag.LZ4, 1000),
    ],
    ids=["garbage", "longer", "shorter", "two-codecs"],
)
def test_a_bad_chunk_leaves_the_stream_in_step(bad: bytes) -> None:
    chunks, stream = taking(bad, packed(b"b" * 1000), chunk(b"c" * 10))
    chunks.take(0, 2010, memoryview(bytearray(2010)))
    assert stream.data == b"next"
    with pytest.raises(ProtocolError, match="chunk"):
        chunks.check()
    chunks.check()  # the next call is not affected


@pytest.mark.parametrize("claimed", [0, 2**32 - 1, CHUNK_SIZE])
def test_a_size_beyond_the_payload_is_refused(claimed: int) -> None:
    chunks, _ = taking(packed(b"a" * 1000, claimed=claimed))
    room = memoryview(bytearray(500))
    chunks.take(0, 1 if claimed == 0 else 500, room)
    with pytest.raises(ProtocolError):
        chunks.check()


def test_compressed_chunks_without_memory_are_drained() -> None:
    chunks, stream = taking(packed(b"a" * 1000), chunk(b"b" * 10))
    chunks.take(0, 1010, None)
    chunks.check()
    assert stream.data == b"next"


@pytest.mark.parametrize("names", [(), NAMES])
def test_a_result_is_sent_as_chunks(names: tuple[str, ...]) -> None:
    stream: Any = FakeStream()
    parts = [b"head", bytes(CHUNK_SIZE + 50_000)]
    SlotChunks(stream, Codecs(names)).send(1, 1, parts)
    frames = Decoder().feed(stream.sent)
    assert [bool(frame.flags & Flag.MORE) for frame in frames] == [True, True, False]
    opened = [bytes(Codecs(names).open(frame.flags, frame.payload, frame.detail)) for frame in frames]
    assert b"".join(opened) == b"".join(parts)
    assert (len(stream.sent) < 10_000) is bool(names)
