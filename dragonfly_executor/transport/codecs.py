"""The codecs for chunks of large payloads: lz4, and zstd.

Both are extras. A library is imported when the first chunk is compressed or opened.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.compression import CODEC_FLAGS, COMPRESSED, check_compressed
from dragonfly_executor.protocol.frames import CHUNK_SIZE
from dragonfly_executor.transport.sockets import Buffer

ZSTD_LEVEL = 1
"""Level 3 takes a third longer and makes chunks of this size hardly smaller."""
WINDOW_LOG = CHUNK_SIZE.bit_length() - 1
"""Binary logarithm of the window of zstd: no chunk needs a larger one, so none may ask for more memory."""


def installed() -> tuple[str, ...]:
    """Return the names of the codecs whose libraries this Python has, without importing them."""
    return tuple(name for name in CODEC_FLAGS if any(map(_is_installed, _libraries(name))))


def _libraries(name: str) -> tuple[str, ...]:
    if name == "lz4":
        return ("lz4",)
    # The standard library has zstd from Python 3.14 on, unless it was built without it.
    return ("_zstd", "zstandard") if sys.version_info >= (3, 14) else ("zstandard",)


def _is_installed(module: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


class LoadedCodec:
    """One codec, ready to use. It belongs to one thread.

    Args:
        flag: marks the chunks that it has compressed.
        compress: compresses a chunk.
        decompress: opens a compressed chunk whose size is the second argument, and makes no more than that.
        failures: the exceptions that `decompress` raises for bytes that are no such chunk.
    """

    def __init__(
        self,
        flag: int,
        compress: Callable[[Buffer], bytes],
        decompress: Callable[[Buffer, int], bytes],
        failures: tuple[type[Exception], ...],
    ) -> None:
        self.flag = flag
        self.compress = compress
        self.decompress = decompress
        self.failures = failures


def load(name: str) -> LoadedCodec:
    """Return a new codec.

    Raises:
        ImportError: its library is not installed, or cannot be loaded.
    """
    if name == "lz4":
        return _load_lz4()
    if sys.version_info >= (3, 14):
        try:
            return _load_standard_zstd()
        except ImportError:
            return _load_zstandard()
    return _load_zstandard()


def _load_lz4() -> LoadedCodec:
    from lz4 import block

    return LoadedCodec(
        CODEC_FLAGS["lz4"],
        lambda data: block.compress(data, store_size=False),
        lambda data, size: block.decompress(data, uncompressed_size=size),
        (block.LZ4BlockError, ValueError),
    )


def _load_zstandard() -> LoadedCodec:
    import zstandard

    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << WINDOW_LOG)

    def decompress(data: Buffer, size: int) -> bytes:
        """Open a chunk. The library allocates the size that the frame claims, so the claim is checked first."""
        claimed = zstandard.frame_content_size(data)
        if claimed != size:
            raise ValueError(f"a frame of {claimed} bytes, not {size}")
        opened: bytes = decompressor.decompress(data, max_output_size=size)
        return opened

    return LoadedCodec(CODEC_FLAGS["zstd"], compressor.compress, decompress, (zstandard.ZstdError, ValueError))


if sys.version_info >= (3, 14):

    def _load_standard_zstd() -> LoadedCodec:
        from compression import zstd

        options = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG}

        def decompress(data: Buffer, size: int) -> bytes:
            """Open a chunk, up to its size."""
            decompressor = zstd.ZstdDecompressor(options=options)
            opened = decompressor.decompress(data, max_length=size)
            if not decompressor.eof:
                raise ValueError("the frame does not end")
            return opened

        return LoadedCodec(
            CODEC_FLAGS["zstd"],
            lambda data: zstd.compress(data, level=ZSTD_LEVEL),
            decompress,
            (zstd.ZstdError, ValueError),
        )


class Codecs:
    """The codecs that both ends of a link have. They belong to one thread.

    Args:
        names: their names.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names = tuple(names)
        self._loaded: list[LoadedCodec] | None = None

    def loaded(self) -> list[LoadedCodec]:
        """Return the codecs. One whose library cannot be loaded is left out."""
        if self._loaded is None:
            loaded = []
            for name in self.names:
                try:
                    loaded.append(load(name))
                except (ImportError, OSError):
                    continue  # the library is there and broken: the other end's chunks are refused, ours are plain
            self._loaded = loaded
        return self._loaded

    def open(self, flags: int, payload: Buffer, size: int) -> Buffer:
        """Return the bytes of a chunk, compressed or not.

        Args:
            flags: the chunk's.
            payload: the chunk's.
            size: the number of bytes that a compressed chunk claims to have.

        Raises:
            ProtocolError: the chunk is not what it claims to be.
        """
        if not flags & COMPRESSED:
            return payload
        check_compressed(flags, size)
        codec = next((codec for codec in self.loaded() if codec.flag & flags), None)
        if codec is None:
            raise ProtocolError("a chunk that is compressed by a codec that was not agreed on or cannot be loaded")
        try:
            data = codec.decompress(payload, size)
        except codec.failures as error:
            raise ProtocolError(f"a compressed chunk that cannot be opened: {error}") from None
        if len(data) != size:
            raise ProtocolError(f"a compressed chunk of {len(data)} bytes that claims {size}")
        return data


def codec_bits(names: Iterable[str]) -> int:
    """Return the codecs as bits, as SETUP carries them."""
    return sum(CODEC_FLAGS[name] for name in names)


def codecs_of(bits: int) -> Codecs:
    """Return the codecs that these bits of SETUP name."""
    return Codecs(name for name, flag in CODEC_FLAGS.items() if flag & bits)
