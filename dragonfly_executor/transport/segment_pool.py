"""The sender's side of shared memory: segments, and the pool of their blocks.

Any thread may take blocks, and an interrupt may come between any two steps. So there is no lock: a block moves by the
atomic steps of a `deque`. A block that an interrupt loses is used no more, and its segment closes with its last block.
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import suppress
from mmap import mmap
from time import monotonic
from weakref import WeakSet, finalize, ref

from dragonfly_executor.transport.segment_file import (
    ABANDONED,
    FREE,
    LENT,
    MAX_BLOCKS,
    Words,
    file_size,
    make_file,
    mark_closed,
    start_of,
)
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from dragonfly_executor.transport.sockets import Buffer

SMALLEST = 128 * 1024
"""Size in bytes of the smallest blocks."""
PIECE = 4 * 1024 * 1024
"""Bytes that are copied in one step. A copy holds the interpreter lock, which other threads need in between."""
MAX_TRIES = 64
"""Maximum number of blocks that are checked for a free one."""
_MAX_PIECES = 1024  # of one pwritev
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, which mmap does not name


class Segment:
    """A segment that this process writes to.

    Args:
        number: names the segment in messages.
        size: bytes of a block.
        count: number of blocks.
        maker: made the segment, and is notified when it closes. It may be told twice.
    """

    def __init__(self, number: int, size: int, count: int, maker: SegmentMaker) -> None:
        self._opened: list[int] = []
        # Before there is anything to close. Two, because a Ctrl-C during one of them loses it.
        for _ in range(2):
            finalize(self, _close, self._opened, os.getpid(), number, ref(maker)).atexit = False
        self.fd = -1
        """The file; -1 until `open`."""
        self.number = number
        self.size = size
        self.count = count
        self.blocks: WeakSet[Block] = WeakSet()
        self._maker = maker
        self._map: mmap | None = None
        self._may_map = True
        self._words: Words | None = None

    def open(self) -> None:
        """Make the file.

        Raises:
            OSError: there is no such memory here, or no descriptor left.
        """
        make_file(self.size, self.count, self._opened)
        self.fd = self._opened[0]

    def make_blocks(self) -> list[Block]:
        """Return all blocks of the new segment."""
        made = [Block(self, index) for index in range(self.count)]
        self.blocks.update(made)
        return made

    @property
    def memory(self) -> memoryview | None:
        """The mapped file; None if there is no address space for it."""
        mapped = self._mapped()
        return None if mapped is None else memoryview(mapped)

    @property
    def words(self) -> Words:
        """The words of the blocks."""
        if self._words is None:
            self._words = Words(self.fd, self._mapped())
        return self._words

    def _mapped(self) -> mmap | None:
        if self._map is None and self._may_map:
            try:
                self._map = mmap(self.fd, file_size(self.size, self.count))
            except (OSError, ValueError, MemoryError):
                self._may_map = False
        return self._map

    def populate(self, start: int, size: int) -> None:
        """Map pages that were written through the file, so that the copy causes no page fault."""
        if self._map is not None:
            try:
                self._map.madvise(_POPULATE_WRITE, start, size)
            except (OSError, ValueError):
                return  # an older kernel: each page is mapped when it is touched

    def reserve(self, size: int) -> bool:
        """Take `size` more bytes of memory. Returns False if that is over the limit."""
        return self._maker.reserve(self.number, size)


def _close(opened: list[int], owner: int, number: int, maker: ref[SegmentMaker]) -> None:
    """Close a segment. A forked child closes its descriptor only. If an interrupt ends this, a second call goes on."""
    if os.getpid() == owner:
        known = maker()
        if known is not None:
            known.closed(number)
        for fd in opened:
            mark_closed(fd)
    # Taken from the list and closed in one step that no interrupt divides.
    with suppress(IndexError, OSError):  # it is closed already
        next(map(os.close, iter(opened.pop, None)), None)


class SegmentMaker(Protocol):
    """The maker of segments, and the accountant of their memory."""

    def make(self, size: int, needed: int) -> Segment | None:
        """Return a new segment with blocks of `size` bytes, of which the first use takes `needed`; None if not."""
        ...

    def reserve(self, number: int, size: int) -> bool:
        """Take `size` more bytes for a segment; a negative size gives bytes back. Returns False if over the limit."""
        ...

    def closed(self, number: int) -> None:
        """Note that a segment has closed."""


class Block:
    """A part of a segment, for one payload at a time."""

    __slots__ = ("__weakref__", "_is_mapped", "index", "segment", "since", "written")

    def __init__(self, segment: Segment, index: int) -> None:
        self.segment = segment
        self.index = index
        self.written = 0
        """Bytes that were written once, so that the kernel has memory for them."""
        self.since = 0.0
        """The time at which the block was last put back into the pool, in monotonic seconds."""
        self._is_mapped = 0

    def write(self, parts: Sequence[Buffer], size: int) -> bool:
        """Write the parts of a payload of `size` bytes. Returns False if there is no memory for it."""
        segment = self.segment
        start = start_of(self.index, segment.size)
        memory, before = None, self.written
        if size > before:
            # A write to the file reports a lack of memory, where a store into mapped memory ends the process. And it
            # costs half of it, as there are no page faults.
            if not segment.reserve(size - before):
                return False
            self.written = size
        else:
            memory = segment.memory
        try:
            if memory is None:
                _write_file(segment.fd, parts, start)
            else:
                if self._is_mapped < self.written:
                    segment.populate(start, self.written)
                    self._is_mapped = self.written
                _copy(memory[start : start + size], parts)
        except OSError:
            self.written = before
            segment.reserve(before - size)
            return False
        return True

    def lend(self) -> None:
        """Note that the receiver has the block, until it says otherwise."""
        self.segment.words[self.index] = LENT

    @property
    def user(self) -> int:
        """The word of the block."""
        return self.segment.words[self.index]

    def view(self) -> memoryview:
        """Return the block's memory, for a stream.

        Raises:
            MemoryError: there is no address space for it.
        """
        memory = self.segment.memory
        if memory is None:
            raise MemoryError("no address space for shared memory")
        start = start_of(self.index, self.segment.size)
        return memory[start : start + self.segment.size]


class SegmentPool:
    """The free blocks of this process, by size.

    Args:
        maker: makes segments.
        users: process ids of the receivers that live.
    """

    def __init__(self, maker: SegmentMaker, users: Container[int]) -> None:
        self._maker = maker
        self._users = users
        self._free: dict[int, deque[Block]] = {}

    def take(self, parts: Sequence[Buffer], size: int) -> Block | None:
        """Return a block that has these parts, of `size` bytes together; None if there is no memory for it."""
        block = self._find(size)
        if block is not None and not block.write(parts, size):
            self.put(block)
            return None
        return block

    def put(self, block: Block) -> None:
        """Put a block back. It is used again once its word says that it is free."""
        block.since = monotonic()
        self._free_of(block.segment.size).append(block)

    def _free_of(self, size: int) -> deque[Block]:
        free = self._free.get(size)
        return self._free.setdefault(size, deque()) if free is None else free

    def _find(self, size: int) -> Block | None:
        free = self._free_of(block_size(size))
        try:
            for _ in range(min(len(free), MAX_TRIES)):
                block = free.pop()
                if self._is_free(block):
                    return block
        except IndexError:
            pass  # other threads took the rest
        segment = self._maker.make(block_size(size), size)
        if segment is None:
            return None
        first, *others = segment.make_blocks()
        free.extend(others)
        return first

    def _is_free(self, block: Block) -> bool:
        """Return whether a block may be used. If its receiver uses it, put it back; if that has died, drop it."""
        word = block.user
        if word == FREE:
            return True
        if word == LENT or word in self._users:
            self._free_of(block.segment.size).appendleft(block)
        return False

    def trim(self, until: float = float("inf")) -> bool:
        """Close the segments none of whose blocks was in use since `until`, in monotonic seconds.

        Returns:
            True if some are left.
        """
        for free in self._free.values():
            blocks: list[Block] = []
            try:
                while True:
                    blocks.append(free.popleft())
            except IndexError:
                pass
            # Lost blocks go first: a segment closes if all that is left of it is idle.
            blocks = [block for block in blocks if not self._is_lost(block)]
            by_segment: dict[Segment, int] = {}
            for segment in (block.segment for block in blocks if block.since <= until and block.user == FREE):
                by_segment[segment] = by_segment.get(segment, 0) + 1
            free.extendleft(
                reversed([one for one in blocks if by_segment.get(one.segment, 0) < len(one.segment.blocks)])
            )
        return any(self._free.values())

    def _is_lost(self, block: Block) -> bool:
        word = block.user
        return word == ABANDONED or (word not in (FREE, LENT) and word not in self._users)

    def clear(self) -> None:
        """Drop all blocks. Segments that are in use close when their last block is dropped."""
        self._free.clear()


def block_size(size: int) -> int:
    """Return the size of the blocks for payloads of `size` bytes: a power of two."""
    return max(SMALLEST, 1 << (size - 1).bit_length())


def block_count(size: int, room: int) -> int:
    """Return how many blocks of `size` bytes a segment of about `room` bytes has."""
    return max(1, min(MAX_BLOCKS, room // size))


def _copy(target: memoryview, parts: Iterable[Buffer]) -> None:
    position = 0
    for part in parts:
        size = len(part)
        if size <= PIECE:
            target[position : position + size] = part
        else:
            view = memoryview(part)
            for start in range(0, size, PIECE):
                piece = view[start : start + PIECE]
                target[position + start : position + start + len(piece)] = piece
        position += size


def _write_file(fd: int, parts: Iterable[Buffer], start: int) -> None:
    left = deque(memoryview(part) for part in parts if len(part))
    while left:
        written = os.pwritev(fd, [view for view, _ in zip(left, range(_MAX_PIECES), strict=False)], start)
        start += written
        while written:
            first = left.popleft()
            if len(first) > written:
                left.appendleft(first[written:])
                break
            written -= len(first)
