"""The agent's memory for the pieces of payloads that its slots have in common.

A piece lies in a sealed memfd, which slots open through ``/proc`` of the agent. So it has no name, and ends with the
agent and the slots. On a system without memfd it is a file in the runner's session directory.
"""

from __future__ import annotations

import os
import sys

from dragonfly_executor.core.recently_used import RecentlyUsed
from dragonfly_executor.protocol.frames import Flag
from dragonfly_executor.protocol.shared_entries import PIECE_PLACE
from dragonfly_executor.runner.machine import FALLBACK_MEMORY, RunnerMachine
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Container

MEMORY_SHARE = 4
"""Divisor of the memory that the runner may use: the bytes of all pieces."""
MOST_KEPT = 256
"""Maximum number of pieces. Each takes a descriptor, here and in each slot that uses the piece."""


class PieceWriter:
    """The memory of one piece, while it is written and as long as it is kept.

    Args:
        size: bytes of the piece.
        folder: returns the folder for a file, if there is no memfd.

    Raises:
        OSError: there is no memory or no descriptor for it.
    """

    def __init__(self, size: int, folder: Callable[[], str]) -> None:
        self._left = size
        self._path = ""
        if sys.platform == "linux":
            self.fd = os.memfd_create("dragonfly-piece", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        else:
            self._path = os.path.join(folder(), f"piece-{os.urandom(6).hex()}")
            self.fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def write(self, data: memoryview) -> bool:
        """Add bytes. Return False if there are more than the size of the piece."""
        self._left -= len(data)
        if self._left < 0:
            return False
        while data:
            data = data[os.write(self.fd, data) :]
        return True

    def finish(self) -> bool:
        """Seal the memory. Return True if the piece is complete; otherwise the memory is given up.

        Raises:
            OSError: the memory cannot be sealed, and is given up.
        """
        if self._left:
            self.drop()
            return False
        if not self._path:
            # Imported only here: it exists on Linux only.
            from dragonfly_executor.transport.sealed_memory import seal

            try:
                seal(self.fd)
            except OSError:
                self.drop()
                raise
        return True

    def where(self) -> tuple[bytes, int]:
        """Return the payload and the flags of a SHARED_FILE that tells a slot where the piece is."""
        if self._path:
            return os.fsencode(self._path), 0
        return PIECE_PLACE.pack(os.getpid(), self.fd, os.fstat(self.fd).st_ino), Flag.PIECES

    def drop(self) -> None:
        """Give the memory up. Slots that have opened the piece keep it."""
        os.close(self.fd)
        if self._path:
            try:
                os.unlink(self._path)
            except OSError:
                return  # the session directory is gone


class PieceRoom:
    """The bounds of the agent's memory for pieces, and the order in which pieces make room.

    Args:
        folder: returns the folder for files, if there is no memfd.
        most: bytes of all pieces; None for a share of the memory that the runner may use.
    """

    def __init__(self, folder: Callable[[], str], most: int | None = None) -> None:
        self._folder = folder
        self._most = (RunnerMachine().memory or FALLBACK_MEMORY) // MEMORY_SHARE if most is None else most
        self._sizes = RecentlyUsed(self._most, MOST_KEPT)
        self._taken: dict[int, int] = {}
        """The bytes of each piece."""

    def open(self, number: int, size: int, pinned: Container[int]) -> tuple[PieceWriter, list[int]]:
        """Make memory for a piece.

        Args:
            number, size: the piece.
            pinned: pieces that must stay, because slots wait for them.

        Returns:
            The memory, and the pieces that have to go, the least recently used first.

        Raises:
            OSError: there is no room.
        """
        stays = sum(taken for other, taken in self._taken.items() if other in pinned and other != number)
        if stays + size > self._most:
            raise OSError(f"the pieces of calls may take {self._most} bytes on this runner")
        # The memory first: it may fail, and then no piece has to go.
        writer = PieceWriter(size, self._folder)
        self._taken[number] = size
        self._sizes.add(number, size)
        evicted = self._sizes.evict(pinned)
        for other in evicted:
            self._taken.pop(other, None)
        return writer, evicted

    def use(self, number: int) -> None:
        """Mark a piece as the most recently used."""
        self._sizes.use(number)

    def remove(self, number: int) -> None:
        """Forget a piece."""
        self._taken.pop(number, None)
        self._sizes.remove(number)
