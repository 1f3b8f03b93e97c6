"""Compression of the chunks of large payloads: when it pays, and what a compressed chunk may claim.

Each chunk is compressed separately, so that an agent forwards it unopened and counts its bytes. The codecs themselves
are in `transport/codecs.py`.
"""

from __future__ import annotations

from struct import Struct

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.frames import CHUNK_SIZE, HEADER, Flag, Frame
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Buffer = bytes | bytearray | memoryview

CODEC_FLAGS = {"zstd": Flag.ZSTD, "lz4": Flag.LZ4}
"""The codecs by name, and the flag of a chunk that is compressed by it."""
COMPRESSED = Flag.ZSTD | Flag.LZ4
SAMPLE_SIZE = 16 * 1024
"""Bytes of a chunk that are compressed to decide about it and those after it. Smaller chunks are not compressed."""
SAMPLE_EVERY = 64
"""Chunks after which the next sample is taken (16 MiB): a payload may have parts that differ."""
GOOD_RATIO = 0.8
"""Size of the compressed sample, as a share of the sample, up to which it pays on a link of unknown rate."""
AT_ONCE = 4
"""Chunks that are compressed in one pass of a loop: 1 to 4 ms of work."""
GAIN = 0.95
"""Time with compression, as a share of the time without it, up to which it pays. A chunk that shrinks less is plain."""


class ChunkCodec(Protocol):
    """One way to compress. It belongs to one thread."""

    flag: int

    def compress(self, data: Buffer, /) -> bytes:
        """Return the compressed data."""
        ...


class Rate(Protocol):
    """The rate of a stream, as it is measured; see `transport.bulk_rate`."""

    is_high: bool

    def per_second(self) -> float | None:
        """Return the bytes per second; None if unknown."""
        ...


class Sample:
    """Result of one codec for a sample.

    Attributes:
        codec: the codec.
        ratio: compressed size as a share of the size.
        cost: seconds of work for each byte.
    """

    __slots__ = ("codec", "cost", "ratio")

    def __init__(self, codec: ChunkCodec, ratio: float, cost: float) -> None:
        self.codec = codec
        self.ratio = ratio
        self.cost = cost


def choose(samples: Iterable[Sample], rate: float | None) -> ChunkCodec | None:
    """Return the codec with which the payload arrives first; None if that is without any.

    The work and the transfer are added up, although they overlap: the work takes time from other calls.

    Args:
        samples: one for each codec.
        rate: bytes that the link carries in a second; None if unknown.
    """
    if rate is None:
        best = min(samples, key=lambda sample: sample.ratio, default=None)
        return best.codec if best is not None and best.ratio <= GOOD_RATIO else None
    best = min(samples, key=lambda sample: sample.cost * rate + sample.ratio, default=None)
    return best.codec if best is not None and best.cost * rate + best.ratio <= GAIN else None


def chunk_size(chunk: Frame) -> int:
    """Return the number of a payload's bytes that are in a chunk.

    Raises:
        ProtocolError: the chunk claims a size that no chunk has, or two codecs.
    """
    flags = chunk.flags & COMPRESSED
    if not flags:
        return len(chunk.payload)
    check_compressed(flags, chunk.detail)
    return chunk.detail


def check_compressed(flags: int, size: int) -> None:
    """Check what a compressed chunk claims: one codec, and not more bytes than a chunk has.

    Raises:
        ProtocolError: it claims two codecs, or a wrong size.
    """
    if flags & COMPRESSED == COMPRESSED:
        raise ProtocolError("a chunk that is compressed by two codecs")
    if not 0 < size <= CHUNK_SIZE:
        raise ProtocolError(f"a compressed chunk of {size} bytes, not 1 to {CHUNK_SIZE}")


_PLACE = Struct("!I")


def with_place(plain: bytes, header: bytes, data: Buffer) -> tuple[bytes, Buffer]:
    """Return a chunk of an object, of which `Compressor.compress` has returned header and data, as it is to be sent.

    A compressed chunk has its size in the place of its number, so the number comes ahead of the data.

    Args:
        plain: the header before compression.
        header, data: the chunk.
    """
    if header is plain:
        return header, data
    kind, flags, attempt, size, number, length = HEADER.unpack(header)
    place = HEADER.unpack(plain)[3]
    return HEADER.pack(kind, flags, attempt, size, number, length + _PLACE.size), _PLACE.pack(place) + data


def split_place(frame: Frame) -> tuple[int, memoryview]:
    """Split a chunk of an object into its number and its data, which may be compressed.

    Raises:
        ProtocolError: a compressed chunk has no number.
    """
    if not frame.flags & COMPRESSED:
        return frame.detail, frame.payload
    if len(frame.payload) < _PLACE.size:
        raise ProtocolError(f"a compressed chunk of {len(frame.payload)} bytes, without its number")
    return _PLACE.unpack_from(frame.payload)[0], frame.payload[_PLACE.size :]


class Compressor:
    """The compression of one payload's chunks.

    Args:
        codecs: the codecs that both ends have.
        rate: the rate of the link.
        clock: returns the seconds of work of this thread.
    """

    def __init__(self, codecs: Sequence[ChunkCodec], rate: Rate, clock: Callable[[], float]) -> None:
        self._codecs = codecs
        self._rate = rate
        self._clock = clock
        self._codec: ChunkCodec | None = None
        self._until_sample = 0
        self._knows_rate = True
        """True if the rate was known at the last sample, or if there was none."""

    def compress(self, header: bytes, piece: memoryview) -> tuple[bytes, Buffer]:
        """Return header and bytes of this chunk as they are to be sent."""
        if len(piece) < SAMPLE_SIZE:
            return header, piece
        try:
            if not self._until_sample or (not self._knows_rate and self._rate.per_second() is not None):
                self._decide(piece)
            self._until_sample -= 1
            if self._codec is None:
                return header, piece
            packed = self._codec.compress(piece)
        except MemoryError:
            return header, piece
        if len(packed) > GAIN * len(piece):
            return header, piece
        kind, flags, attempt, _, call_id, size = HEADER.unpack(header)
        return HEADER.pack(kind, flags | self._codec.flag, attempt, size, call_id, len(packed)), packed

    def _decide(self, piece: memoryview) -> None:
        """Choose how this chunk and those after it travel."""
        rate, was_known = self._rate.per_second(), self._knows_rate
        self._until_sample, self._knows_rate = SAMPLE_EVERY, rate is not None
        if rate is None and not was_known:
            # Since the last sample the stream was hardly ever full: the link carries more than the codec delivers.
            # Without the codec the stream is full soon, and the rate known, unless the link is faster than this end.
            self._rate.is_high = self._codec is None
            self._codec = None
        else:
            self._codec = None if rate is None and self._rate.is_high else choose(self._samples(piece), rate)

    def _samples(self, piece: memoryview) -> list[Sample]:
        # From the middle: the start of a payload is often unlike the rest.
        start = (len(piece) - SAMPLE_SIZE) // 2
        sample = piece[start : start + SAMPLE_SIZE]
        samples = []
        for codec in self._codecs:
            before = self._clock()
            size = len(codec.compress(sample))
            samples.append(Sample(codec, size / SAMPLE_SIZE, (self._clock() - before) / SAMPLE_SIZE))
        return samples
