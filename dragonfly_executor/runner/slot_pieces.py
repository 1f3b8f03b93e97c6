"""The pieces of payloads that a slot has opened: large parts of calls, which its runner has once for all slots."""

from __future__ import annotations

import os
from mmap import ACCESS_COPY, ACCESS_READ, mmap

from dragonfly_executor.core.recently_used import RecentlyUsed
from dragonfly_executor.protocol.frames import Flag
from dragonfly_executor.protocol.piece_table import PieceEntry
from dragonfly_executor.protocol.shared_entries import IN_AGENT, NO_DIGEST, PIECE_PLACE, SharedEntry
from dragonfly_executor.runner.machine import FALLBACK_MEMORY, total_memory
from dragonfly_executor.runner.shared_requests import SharedRequests
from dragonfly_executor.util.constant_memory import ConstantMemory
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dragonfly_executor.runner.agent_stream import AgentStream

MOST = 64
"""Maximum number of pieces that a slot keeps open between calls. Each takes two descriptors."""
MEMORY_SHARE = 8
"""Divisor of the machine's memory: the bytes of the pieces that a slot keeps open, because objects are made of them."""


class OpenPiece:
    """A piece whose memory this process has opened.

    Args:
        fd: its descriptor, which the object takes over.
        size: its size in bytes.

    Raises:
        OSError, ValueError, MemoryError: it cannot be mapped.
    """

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._size = size
        self._constant = ConstantMemory(fd, size, access=ACCESS_READ)

    def view(self) -> memoryview | bytearray:
        """See `BufferSource.view`."""
        try:
            return memoryview(mmap(self._fd, self._size, access=ACCESS_COPY))
        except (OSError, ValueError):  # no descriptor is left, which a mapping takes
            return bytearray(self._constant)

    def constant(self) -> memoryview:
        """See `BufferSource.constant`."""
        return memoryview(self._constant)

    def __del__(self, close=os.close) -> None:  # type: ignore[no-untyped-def]
        try:
            close(self._fd)
        except OSError:
            return  # a call has closed it


class SlotPieces:
    """The pieces of one slot. One thread.

    Args:
        agent: the stream to the agent.
    """

    def __init__(self, agent: AgentStream) -> None:
        self._requests = SharedRequests(agent)
        self._open: dict[int, OpenPiece] = {}
        self._sizes = RecentlyUsed((total_memory() or FALLBACK_MEMORY) // MEMORY_SHARE, MOST)

    def fetch(self, entries: Sequence[PieceEntry], call_id: int, attempt: int) -> dict[int, OpenPiece] | None:
        """Return the pieces of a call by their places; None if one of them cannot be had here.

        Args:
            entries: the pieces.
            call_id, attempt: the call.
        """
        sizes = {entry.number: entry.size for entry in entries}
        absent = [
            SharedEntry(number, size, NO_DIGEST, IN_AGENT, 0, b"")
            for number, size in sizes.items()
            if number not in self._open
        ]
        answers = self._requests.ask(absent, call_id, attempt) if absent else []
        try:
            for number, flags, where in answers:
                if flags & Flag.ERROR:
                    return None
                self._open[number] = OpenPiece(_opened(where, flags, sizes[number]), sizes[number])
                self._sizes.add(number, sizes[number])
            for number in sizes:
                self._sizes.use(number)
            self._drop(self._sizes.evict(sizes))
            return {entry.place: self._open[entry.number] for entry in entries}
        except (ImportError, OSError, ValueError, MemoryError):
            return None

    def forget(self, numbers: Iterable[int]) -> None:
        """Drop these pieces: the parent does not have them any more."""
        for number in numbers:
            self._sizes.remove(number)
        self._drop(numbers)

    def _drop(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._open.pop(number, None)


def _opened(where: bytes, flags: int, size: int) -> int:
    """Open the memory or the file of a piece.

    Raises:
        OSError, ImportError: it cannot be opened, or another file has its place by now.
    """
    if flags & Flag.PIECES:
        # Imported only here: it exists on Linux only.
        from dragonfly_executor.transport.sealed_memory import open_sealed

        pid, descriptor, inode = PIECE_PLACE.unpack(where)
        return open_sealed(pid, descriptor, inode, size)
    fd = os.open(where, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    if os.fstat(fd).st_size == size:
        return fd
    os.close(fd)
    raise OSError("the file of a piece has another size")
