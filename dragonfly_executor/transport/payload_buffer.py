"""Memory for large payloads that arrive in pieces.

A `bytearray` is copied each time that it grows, and the kernel maps each 4 KiB of it separately. On Linux a mapping
grows without a copy, and in pages of 2 MiB where the machine permits that.
"""

from __future__ import annotations

import mmap
import sys

from dragonfly_executor.protocol.frames import CHUNK_SIZE, HEADER_SIZE

MAPPED = 4 * 1024 * 1024
"""Bytes from which a payload gets a mapping."""
GROWTH = 4
"""Divisor of a full mapping's size: it grows by that share."""
PAGE = 2 * 1024 * 1024
CHUNK_FRAME = HEADER_SIZE + CHUNK_SIZE
"""Bytes of the frame of a full chunk."""
CHUNKS_KEPT = 16
"""Maximum number of buffers that `ChunkBuffers` keeps (4 MiB)."""


def memory_for(size: int) -> bytearray | mmap.mmap:
    """Return `size` bytes of zeroed memory. The kernel provides them as they are written to.

    Raises:
        MemoryError: there is no room for them.
    """
    if size < MAPPED or sys.platform != "linux":
        return bytearray(size)
    try:
        # Private, because a process that a call forks must not write into the arguments of the call.
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(str(error)) from None
    try:
        memory.madvise(mmap.MADV_HUGEPAGE)
    except (OSError, AttributeError):
        return memory  # this kernel has no large pages
    return memory


class PayloadBuffer:
    """A payload that arrives in pieces. It takes at most a quarter more memory than has arrived.

    Args:
        total: the announced size of the payload in bytes, which is not trusted.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._memory: bytearray | mmap.mmap = bytearray()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def allocated(self) -> int:
        """Bytes of memory that the payload takes."""
        return len(self._memory)

    def append(self, piece: bytes | bytearray | memoryview) -> None:
        """Add a piece.

        Raises:
            MemoryError: there is no room for it.
        """
        end = self._size + len(piece)
        if end > len(self._memory):
            self._grow(end)
        self._memory[self._size : end] = piece
        self._size = end

    def _grow(self, least: int) -> None:
        memory = self._memory
        if isinstance(memory, bytearray) and (least < MAPPED or sys.platform != "linux"):
            memory.extend(bytes(least - len(memory)))
            return
        # Whole large pages: the kernel maps the rest of one in small pages, which stay when the memory grows.
        whole = (least + max(least // GROWTH, PAGE)) // PAGE * PAGE
        size = max(least, min(self._total, whole))
        if isinstance(memory, bytearray):
            self._memory = memory_for(max(size, MAPPED))
            self._memory[: self._size] = memoryview(memory)[: self._size]
            return
        try:
            memory.resize(size)
        except OSError as error:
            raise MemoryError(str(error)) from None

    def view(self) -> memoryview:
        """Return the bytes that have arrived. While a view is in use, nothing can be added."""
        return memoryview(self._memory)[: self._size]


class ChunkBuffers:
    """The buffers of chunks that an agent has forwarded, for the next chunks.

    New memory costs a page fault for each 4 KiB, and the allocator returns it to the system whenever some chunks are
    freed together. That takes longer than copying a chunk.
    """

    def __init__(self) -> None:
        self._free: list[bytearray] = []

    def take(self, size: int) -> bytearray:
        """Return a buffer of `size` bytes with any contents."""
        return self._free.pop() if size == CHUNK_FRAME and self._free else bytearray(size)

    def give(self, buffer: bytearray) -> None:
        """Keep a buffer that is not used any more, if it has the size of a full chunk and there are few."""
        if len(buffer) == CHUNK_FRAME and len(self._free) < CHUNKS_KEPT:
            self._free.append(buffer)
