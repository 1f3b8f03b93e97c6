"""The pieces of payloads that a slot has opened: large parts of calls, which its runner has once for all slots."""

from __future__ import annotations

import os
from mmap import ACCESS_COPY, mmap

from dragonfly_executor.core.recently_used import RecentlyUsed
from dragonfly_executor.protocol.frames import Flag
from dragonfly_executor.protocol.piece_table import PieceEntry
from dragonfly_executor.protocol.shared_entries import IN_AGENT, NO_DIGEST, PIECE_PLACE, SharedEntry
from dragonfly_executor.runner.shared_requests import SharedRequests
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dragonfly_executor.runner.agent_stream import AgentStream

MOST = 256
"""Maximum number of pieces that a slot keeps open. Each takes a descriptor."""
MOST_BYTES = 1 << 40
"""No bound: their memory is the agent's."""


class OpenPiece:
    """A piece whose memory this process has opened.

    Args:
        fd: its descriptor, which the object takes over.
        size: its size in bytes.
    """

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._size = size

    def map(self) -> memoryview:
        """Return the bytes. They may be written to: each mapping has what the parent has sent.

        Raises:
            OSError, ValueError, MemoryError: they cannot be mapped.
        """
        return memoryview(mmap(self._fd, self._size, access=ACCESS_COPY))

    def __del__(self, close=os.close) -> None:  # type: ignore[no-untyped-def]
        close(self._fd)


class SlotPieces:
    """The pieces of one slot. One thread.

    Args:
        agent: the stream to the agent.
    """

    def __init__(self, agent: AgentStream) -> None:
        self._requests = SharedRequests(agent)
        self._open: dict[int, OpenPiece] = {}
        self._sizes = RecentlyUsed(MOST_BYTES, MOST)

    def fetch(self, entries: Sequence[PieceEntry], call_id: int, attempt: int) -> dict[int, memoryview] | None:
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
            return {entry.place: self._open[entry.number].map() for entry in entries}
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
        OSError, ImportError: it cannot be opened, or it is something else by now.
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
