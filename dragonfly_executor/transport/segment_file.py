"""The file of a shared memory segment, as sender and receiver see it.

A segment is memory without a name (``memfd``). Its header has a word for each block, and one for the segment. The
blocks of equal size follow. One block holds one payload at a time. Its word says whether the receiver still uses it:

    0                  the sender may use the block again
    LENT               the block was sent
    a process id       that process uses the block
    ABANDONED          a process that was forked may read the block for ever: the sender never uses it again

The kernel keeps the memory until the last process that has mapped it is gone. So no file is left behind, and a sender
may close a segment whenever it likes.
"""

from __future__ import annotations

import fcntl
import os
from mmap import PAGESIZE, mmap
from struct import Struct

HEADER = max(4096, PAGESIZE)
"""Bytes in front of the first block."""
MAX_BLOCKS = 256
FREE = 0
LENT = 2**63
ABANDONED = 2**64 - 1
_WORD = Struct("=Q")
CLOSED = HEADER // _WORD.size - 1
"""Index of the word that is not 0 if the sender has closed the segment."""
STORES_ARE_ORDERED = os.uname().machine in {"x86_64", "i386", "i686"}
"""True if other processors see a store only after the loads before it: a word must not be set to free too soon."""
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def make_file(size: int, count: int, opened: list[int]) -> None:
    """Make the file of a segment of `count` blocks of `size` bytes.

    Memory is taken as the blocks are written.

    Args:
        size, count: the blocks.
        opened: gets the descriptor. Its owner closes it, whatever happens here.

    Raises:
        OSError: there is no such memory here, or no descriptor left.
    """
    # In one step: an interrupt between the call and an assignment loses the descriptor.
    opened.extend(map(os.memfd_create, ("dragonfly-data",), (os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING,)))
    os.ftruncate(opened[0], file_size(size, count))
    # The words are mapped. A store into mapped memory that the kernel cannot provide ends the process.
    os.pwrite(opened[0], b"\0", 0)
    # A process that reads beyond the end of a file that has shrunk dies of SIGBUS.
    fcntl.fcntl(opened[0], fcntl.F_ADD_SEALS, _SEALS)


def check_file(fd: int, size: int, count: int) -> None:
    """Check that a received file is a segment of this form, and stays so.

    Raises:
        OSError: it is not.
    """
    if not 0 < count <= MAX_BLOCKS or size <= 0 or os.fstat(fd).st_size < file_size(size, count):
        raise OSError("the shared memory is smaller than announced")
    if not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
        raise OSError("the shared memory may shrink")


def file_size(size: int, count: int) -> int:
    """Return the size in bytes of the file of `count` blocks of `size` bytes."""
    return HEADER + size * count


def start_of(index: int, size: int) -> int:
    """Return where a block starts in the file."""
    return HEADER + index * size


class Words:
    """The words in a segment's header.

    Args:
        fd: the segment's file, which must stay open without `memory`.
        memory: a shared mapping of the header; None if there is no address space for it.
    """

    def __init__(self, fd: int, memory: mmap | None) -> None:
        self._fd = fd
        # A system call gives up the interpreter lock. If another thread is busy, it takes long to get the lock back.
        self._mapped = memoryview(memory)[:HEADER].cast("Q") if memory is not None and STORES_ARE_ORDERED else None

    def __getitem__(self, index: int) -> int:
        """Return a word."""
        if self._mapped is not None:
            return self._mapped[index]
        word: int = _WORD.unpack(os.pread(self._fd, _WORD.size, index * _WORD.size))[0]
        return word

    def __setitem__(self, index: int, word: int) -> None:
        """Set a word."""
        if self._mapped is not None:
            self._mapped[index] = word
        else:
            os.pwrite(self._fd, _WORD.pack(word), index * _WORD.size)


def mark_closed(fd: int) -> None:
    """Tell receivers that the sender has closed the segment, so that they unmap it."""
    os.pwrite(fd, _WORD.pack(1), CLOSED * _WORD.size)
