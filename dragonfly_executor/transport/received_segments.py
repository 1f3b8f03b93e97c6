"""The receiver's side of shared memory: mapped segments, and the blocks in use.

The receiver maps a segment copy-on-write, so nothing that it writes reaches the sender. Objects are views of a block as
long as they live. When the last view is gone, the receiver discards the pages that it has written, and then sets the
block's word, so that the sender may use the block again.
"""

from __future__ import annotations

import os
from contextlib import suppress
from mmap import ACCESS_COPY, ACCESS_READ, PAGESIZE, mmap

from dragonfly_executor.transport.segment_file import (
    ABANDONED,
    CLOSED,
    FREE,
    HEADER,
    STORES_ARE_ORDERED,
    Words,
    check_file,
    file_size,
    start_of,
)
from dragonfly_executor.util.constant_memory import ConstantMemory
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar

_POPULATE_READ = 22  # MADV_POPULATE_READ, which mmap does not name
_DONTNEED = 4
_SPAN = 64 * 1024 * 1024
"""Bytes whose pages are checked in one step."""
_ENTRY = 8
# The top byte of a page's entry in /proc/self/pagemap: 0x80 present, 0x40 in swap, 0x20 a page of the file.
_UNCHANGED = bytes(byte for byte in range(256) if not byte & 0xC0 or byte & 0x20)


class ForkCount:
    """Counts the forks of this process. `os.register_at_fork` has no undo, so there is one count for the process.

    What is in use at a fork is in use in the child as well, and the child may use it for ever.
    """

    _instance: ClassVar[ForkCount | None] = None

    def __init__(self) -> None:
        self.count = 0
        os.register_at_fork(before=self._count, after_in_parent=self._count)

    @classmethod
    def of_this_process(cls) -> ForkCount:
        """Return the count of this process."""
        if cls._instance is None:
            cls._instance = cls()
        return cls._instance

    def _count(self) -> None:
        self.count += 1


class ReceivedSegment:
    """A segment that another process writes to, mapped here. It takes over the descriptor, also if it fails.

    Args:
        size: bytes of a block.
        count: number of blocks.
        fd: the segment's file.
        is_common: whether the sender never changes the segment. Then `lend_common`, `constant` and `copy` may be used.

    Raises:
        OSError, ValueError, MemoryError: the file is no such segment, or cannot be mapped.
    """

    def __init__(self, size: int, count: int, fd: int, *, is_common: bool = False) -> None:
        self.fd = fd
        self.size = size
        self.count = count
        check_file(fd, size, count)
        self._map: mmap | None = None
        self._constant: ConstantMemory | None = None
        header: mmap | None = None
        with suppress(OSError, ValueError, MemoryError):  # without address space, `lend` reads
            self._map = mmap(fd, file_size(size, count), access=ACCESS_COPY)
            header = mmap(fd, HEADER) if STORES_ARE_ORDERED else None
        self._words = Words(fd, header)
        if header is not None and not is_common:
            # The mappings have descriptors of their own.
            self.fd = -1
            os.close(fd)
        self._cold = set(range(count))
        """Blocks whose pages are not mapped."""
        self._lent: set[int] = set()
        """Blocks that `lend_common` has lent."""
        self._forks = ForkCount.of_this_process()
        self._kind: type[Any] | None = None

    @property
    def is_closed(self) -> bool:
        """True if the sender has closed the segment."""
        return self._words[CLOSED] != 0

    def check(self, index: int, length: int) -> bool:
        """Return whether there is such a block, and it can have this many bytes."""
        return 0 <= index < self.count and 0 < length <= self.size

    def lend(
        self,
        index: int,
        length: int,
        user: int | None = None,
        has_buffers: Callable[[memoryview], bool] | None = None,
    ) -> memoryview:
        """Return the first `length` bytes of a block. They may be written to; the sender does not see that.

        Args:
            index: the block.
            length: the number of bytes, which `check` has found right.
            user: this process's id, if the block's word must say so while it is in use.
            has_buffers: tells from the payload whether objects become views of it. If not, the result is read-only.

        Raises:
            MemoryError: there is no memory for it.
        """
        start = start_of(index, self.size)
        if self._map is None:
            data = bytearray(length)
            _read(self.fd, memoryview(data), start)
            self._words[index] = FREE
            return memoryview(data)
        if self._kind is None:
            try:
                self._kind = _exporter_of(self.size)
            except (ImportError, OSError) as error:
                raise MemoryError(f"ctypes cannot be imported: {error}") from None
        if user is not None:
            self._words[index] = user
        if index in self._cold:
            self._cold.discard(index)
            with suppress(OSError, ValueError):  # an older kernel: each page is mapped when it is touched
                self._map.madvise(_POPULATE_READ, start, length)
        exporter = self._kind.from_buffer(self._map, start)
        view = memoryview(exporter).cast("B")[:length]
        if has_buffers is not None and not has_buffers(view):
            # Nothing is written, so nothing has to be discarded. Searching for pages takes most of the time of a loan.
            view, length = view.toreadonly(), 0
        exporter.loan = (self, index, length, os.getpid(), self._forks.count)
        return view

    def lend_common(self, size: int) -> memoryview:
        """Return the first `size` bytes of the only block, which the sender never changes. They may be written to.

        It may be lent several times at once. Each has what the sender wrote, whatever the others have written.

        Raises:
            OSError, ValueError, MemoryError: the block is smaller, or cannot be mapped.
        """
        if not self.check(0, size):
            raise ValueError(f"{size} bytes in a block of {self.size}")
        if self._map is not None and 0 not in self._lent:
            # The pages of this mapping are in place already.
            self._lent.add(0)
            return self.lend(0, size)
        start = start_of(0, self.size)
        return memoryview(mmap(self.fd, start + size, access=ACCESS_COPY))[start:]

    def constant(self, size: int) -> memoryview:
        """Return the first `size` bytes of the only block, read-only. It is the same memory each time.

        Raises:
            OSError, ValueError, MemoryError: the block cannot be mapped.
        """
        start = start_of(0, self.size)
        if self._constant is None:
            self._constant = ConstantMemory(self.fd, start + self.size, access=ACCESS_READ)
        return memoryview(self._constant)[start : start + size]

    def copy(self, size: int) -> bytearray:
        """Return a copy of the first `size` bytes of the only block.

        Raises:
            MemoryError: there is no memory for it.
        """
        data = bytearray(size)
        _read(self.fd, memoryview(data), start_of(0, self.size))
        return data

    def take_back(self, index: int, length: int, forks: int, address: int) -> None:
        """Let the sender use a block again, because no object uses it any more. Any thread calls this.

        Args:
            index: the block.
            length: the number of bytes from the block's start that may have been written to.
            forks: the count of forks when the block was lent.
            address: where the block is in memory.
        """
        if forks != self._forks.count:
            self._words[index] = ABANDONED
            return
        if self._map is not None:
            self._discard_changes(self._map, index, length, address)
        self._lent.discard(index)
        self._words[index] = FREE

    def _discard_changes(self, memory: mmap, index: int, length: int, address: int) -> None:
        """Discard the pages that were written here. The next use must see the sender's."""
        # Checking the pages costs a twentieth of mapping them anew.
        start = start_of(index, self.size)
        for offset in range(0, length, _SPAN):
            size = min(_SPAN, length - offset)
            if _is_changed(address + offset, size):
                self._cold.add(index)
                memory.madvise(_DONTNEED, start + offset, size)

    def __del__(self, close=os.close) -> None:  # type: ignore[no-untyped-def]
        if self.fd >= 0:
            close(self.fd)


def _exporter_of(size: int) -> type[Any]:
    # Imported at the first use of shared memory. No other type of the standard library exports a part of a buffer, and
    # tells when the last view of it is gone.
    from ctypes import addressof, c_ubyte

    class BlockInUse(c_ubyte * size):  # type: ignore[misc]
        """A block in use. Each view of it refers to it."""

        loan: tuple[ReceivedSegment, int, int, int, int] | None = None

        def __del__(self, getpid=os.getpid, addressof=addressof) -> None:  # type: ignore[no-untyped-def]
            if self.loan is None:
                return
            segment, index, length, owner, forks = self.loan
            if getpid() != owner:
                return  # a forked child: the block belongs to the process that forked
            try:
                segment.take_back(index, length, forks, addressof(self))
            except OSError:
                return

    return BlockInUse


def _is_changed(address: int, size: int) -> bool:
    """Return whether one of these pages, mapped copy-on-write, has been written to. True if that is unknown."""
    try:
        fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    pages = -(-size // PAGESIZE)
    try:
        entries = os.pread(fd, pages * _ENTRY, address // PAGESIZE * _ENTRY)
    except OSError:
        return True
    finally:
        os.close(fd)
    return len(entries) != pages * _ENTRY or bool(entries[_ENTRY - 1 :: _ENTRY].translate(None, _UNCHANGED))


def _read(fd: int, view: memoryview, start: int) -> None:
    while view:
        size = os.preadv(fd, [view], start)
        if not size:
            raise MemoryError("the shared memory ends early")
        view, start = view[size:], start + size
