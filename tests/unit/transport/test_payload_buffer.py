"""Memory for payloads that arrive in pieces: what comes out is what went in, and little more memory is taken."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor.transport import payload_buffer
from dragonfly_executor.transport.payload_buffer import (
    CHUNK_FRAME,
    CHUNKS_KEPT,
    GROWTH,
    MAPPED,
    PAGE,
    ChunkBuffers,
    PayloadBuffer,
    memory_for,
)


@given(st.lists(st.integers(0, 3_000_000), max_size=8), st.integers(0, 2**40))
def test_what_arrives_is_kept_whatever_was_announced(sizes: list[int], announced: int) -> None:
    buffer, expected = PayloadBuffer(announced), bytearray()
    for number, size in enumerate(sizes):
        piece = bytes([number]) * size
        buffer.append(memoryview(piece))
        expected += piece
        assert len(buffer) == len(expected)
        assert buffer.allocated <= max(len(expected) + max(len(expected) // GROWTH, PAGE), MAPPED)
    assert buffer.view() == expected


def test_a_payload_as_long_as_announced_takes_no_more_than_that() -> None:
    total = 3 * MAPPED + 5
    buffer = PayloadBuffer(total)
    piece = memoryview(os.urandom(256 * 1024))
    while len(buffer) < total:
        buffer.append(piece[: total - len(buffer)])
    assert buffer.allocated == total


def test_memory_that_is_not_there_is_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MemoryError):
        memory_for(2**62)
    buffer = PayloadBuffer(2**62)
    buffer.append(memoryview(bytes(MAPPED)))

    class Full:
        def resize(self, size: int) -> None:
            raise OSError(12, "no memory")

        def __len__(self) -> int:
            return MAPPED

    if sys.platform == "linux":
        buffer._memory = Full()  # type: ignore[assignment]
        with pytest.raises(MemoryError):
            buffer.append(memoryview(bytes(PAGE * 8)))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a payload has a bytearray")
def test_a_forked_child_does_not_write_into_the_payload() -> None:
    memory = memory_for(MAPPED)
    assert isinstance(memory, mmap.mmap)
    flags = next(line for line in _maps() if int(line.split("-")[0], 16) == address(memory)).split()[1]
    assert flags == "rw-p"


def address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _maps() -> list[str]:
    return Path("/proc/self/maps").read_text().splitlines()


def test_elsewhere_it_is_a_bytearray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload_buffer.sys, "platform", "darwin")
    assert isinstance(memory_for(MAPPED), bytearray)
    buffer = PayloadBuffer(2 * MAPPED)
    buffer.append(memoryview(bytes(MAPPED)))
    buffer.append(memoryview(b"end"))
    assert bytes(buffer.view()[-3:]) == b"end"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a payload has a bytearray")
def test_a_payload_grows_by_whole_large_pages() -> None:
    """What is mapped of a large page in small pages stays so."""
    total = 5 * MAPPED + 5
    buffer, sizes = PayloadBuffer(total), set[int]()
    piece = memoryview(bytes(256 * 1024 - 24))
    while len(buffer) < total:
        buffer.append(piece[: total - len(buffer)])
        if len(buffer) >= MAPPED:
            sizes.add(buffer.allocated)
    assert len(sizes) > 3
    assert {size % PAGE for size in sizes - {total}} == {0}


def test_buffers_of_chunks_are_used_again_and_are_few() -> None:
    buffers = ChunkBuffers()
    made = [buffers.take(CHUNK_FRAME) for _ in range(CHUNKS_KEPT + 5)]
    assert len({id(buffer) for buffer in made}) == len(made)
    assert {len(buffer) for buffer in made} == {CHUNK_FRAME}
    for buffer in made:
        buffers.give(buffer)
    again = [buffers.take(CHUNK_FRAME) for _ in made]
    assert len({id(buffer) for buffer in made} & {id(buffer) for buffer in again}) == CHUNKS_KEPT


def test_only_full_chunks_have_buffers_that_are_kept() -> None:
    buffers = ChunkBuffers()
    short = buffers.take(CHUNK_FRAME - 1)
    buffers.give(short)
    assert len(buffers.take(CHUNK_FRAME)) == CHUNK_FRAME
    assert buffers.take(CHUNK_FRAME - 1) is not short
