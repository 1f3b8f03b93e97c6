"""The codecs of chunks: what they open, and what they refuse without taking memory for it."""

from __future__ import annotations

import sys
import tracemalloc

import lz4.block
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.compression import CODEC_FLAGS
from dragonfly_executor.protocol.frames import CHUNK_SIZE, Flag
from dragonfly_executor.transport.codecs import Codecs, codec_bits, codecs_of, installed, load

NAMES = list(CODEC_FLAGS)
each_codec = pytest.mark.parametrize("name", NAMES)
GIBIBYTE = 2**30
MEBIBYTE = 2**20


def test_both_are_installed_where_tests_run() -> None:
    assert list(installed()) == NAMES


@each_codec
@given(st.binary(min_size=1, max_size=2000), st.integers(1, 100))
def test_what_was_compressed_is_opened(name: str, data: bytes, times: int) -> None:
    codec, whole = load(name), (data * times)[:CHUNK_SIZE]
    packed = codec.compress(memoryview(whole))
    assert Codecs([name]).open(codec.flag | Flag.MORE, bytearray(packed), len(whole)) == whole


@each_codec
@given(st.binary(max_size=200), st.integers(1, CHUNK_SIZE))
def test_garbage_breaks_the_protocol_or_has_the_size_that_it_claims(name: str, garbage: bytes, size: int) -> None:
    try:
        assert len(Codecs([name]).open(CODEC_FLAGS[name], garbage, size)) == size
    except ProtocolError:
        return


@each_codec
@pytest.mark.parametrize("cut", [1, 10])
def test_a_truncated_chunk(name: str, cut: int) -> None:
    packed = load(name).compress(bytes(range(256)) * 100)
    with pytest.raises(ProtocolError, match="compressed chunk"):
        Codecs([name]).open(CODEC_FLAGS[name], packed[:-cut], 25600)


@each_codec
@pytest.mark.parametrize("claimed", [999, 1001, CHUNK_SIZE])
def test_a_chunk_that_lies_about_its_size(name: str, claimed: int) -> None:
    packed = load(name).compress(bytes(1000))
    with pytest.raises(ProtocolError, match="compressed chunk"):
        Codecs([name]).open(CODEC_FLAGS[name], packed, claimed)


@each_codec
@pytest.mark.parametrize("claimed", [0, CHUNK_SIZE, CHUNK_SIZE + 1, GIBIBYTE])
def test_a_bomb_takes_no_memory(name: str, claimed: int) -> None:
    """A few bytes that stand for 64 MiB."""
    packed = load(name).compress(bytes(64 * MEBIBYTE))
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="compressed chunk"):
            Codecs([name]).open(CODEC_FLAGS[name], packed, claimed)
        assert tracemalloc.get_traced_memory()[1] < 4 * MEBIBYTE
    finally:
        tracemalloc.stop()


def test_a_frame_of_zstd_without_a_size_is_refused() -> None:
    zstandard = pytest.importorskip("zstandard")
    packed = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000))
    if sys.version_info < (3, 14):
        with pytest.raises(ProtocolError, match="cannot be opened"):
            Codecs(["zstd"]).open(Flag.ZSTD, packed, 1000)


def test_only_what_was_agreed_on_is_opened() -> None:
    packed = lz4.block.compress(bytes(1000), store_size=False)
    for codecs in (Codecs(), Codecs(["zstd"])):
        with pytest.raises(ProtocolError, match="not agreed on"):
            codecs.open(Flag.LZ4, packed, 1000)


def test_a_plain_chunk_is_left_alone() -> None:
    payload = memoryview(b"four")
    assert Codecs().open(Flag.MORE, payload, 0) is payload


@pytest.mark.parametrize("names", [(), ("lz4",), ("zstd",), ("zstd", "lz4")])
def test_setup_names_the_codecs(names: tuple[str, ...]) -> None:
    assert codecs_of(codec_bits(names)).names == names


def test_a_library_that_is_hidden_or_broken_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lz4", None)
    assert installed() == ("zstd",)
    assert [codec.flag for codec in Codecs(["zstd", "lz4"]).loaded()] == [Flag.ZSTD]
