"""Small results in memory that a slot and its agent share, and a doorbell that tells the agent of them.

A slot writes a result into the memory and adds its size to an eventfd. That takes a fifth of the time of a send. The
agent reads the sum of the sizes, and takes all results at once. The kernel orders the two: bytes whose size the agent
has read are in memory.

The slot needs no answer from the agent before it writes over old bytes: the memory has room for one result of each call
that a slot may hold.
"""

from __future__ import annotations

import os
from mmap import mmap

from dragonfly_executor.core.slot_state import MAX_PREFETCH
from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.util.descriptors import move_up
from dragonfly_executor.util.forked_memory import set_inherited

SIZE = 128 * 1024
"""Bytes of the memory. Only pages that are used take memory."""
MAX_RESULT = SIZE // (MAX_PREFETCH + 1)
"""Largest frame in bytes. A slot holds one call that runs, and `MAX_PREFETCH` behind it."""


class ResultRing:
    """The memory and the doorbell of one slot, made before its fork.

    Raises:
        OSError: there is no memory or no descriptor left.
    """

    def __init__(self) -> None:
        self._memory = mmap(-1, SIZE)
        self._position = 0
        """The place of the next byte to write, or to read."""
        try:
            self._doorbell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        except BaseException:
            self._memory.close()
            raise

    @staticmethod
    def make() -> ResultRing | None:
        """Return a ring, or None if this platform has no eventfd."""
        return ResultRing() if hasattr(os, "eventfd") else None

    def fileno(self) -> int:
        """Return the descriptor of the doorbell, which is readable while there are results; -1 after `close`."""
        return self._doorbell

    def set_inherited(self, *, inherited: bool) -> None:
        """Have the processes that are forked from now on get the memory, or not."""
        set_inherited(self._memory, inherited=inherited)

    # -- the slot -----------------------------------------------------------------------------------------------------

    def begin_to_write(self) -> None:
        """Prepare the slot's side."""
        self.set_inherited(inherited=False)
        # A call may close descriptors that are not its own, and open files, which get the lowest free numbers.
        self._doorbell = move_up(self._doorbell)

    def put(self, frame: bytes) -> bool:
        """Write a result. Return False if it is too large.

        Raises:
            OSError: a call has closed the descriptor.
        """
        size = len(frame)
        if size > MAX_RESULT:
            return False
        start = self._position
        end = start + size
        if end < SIZE:
            self._memory[start:end] = frame
            self._position = end
        else:
            room = SIZE - start
            self._memory[start:] = frame[:room]
            self._memory[: size - room] = frame[room:]
            self._position = size - room
        # Only now: the agent may take the bytes at once.
        os.eventfd_write(self._doorbell, size)
        return True

    # -- the agent ----------------------------------------------------------------------------------------------------

    def take(self) -> bytes:
        """Return the results that have come since the last time, as whole frames.

        Raises:
            ProtocolError: something other than the slot has written to the doorbell.
        """
        try:
            size = os.eventfd_read(self._doorbell)
        except BlockingIOError:
            return b""
        if size > SIZE:
            raise ProtocolError(f"the slot announced {size} bytes of results, more than it may have")
        start = self._position
        end = start + size
        if end < SIZE:
            self._position = end
            return self._memory[start:end]
        self._position = end - SIZE
        return self._memory[start:] + self._memory[: end - SIZE]

    def close(self) -> None:
        """Close the descriptor and unmap the memory. A second call does nothing."""
        if self._doorbell >= 0:
            os.close(self._doorbell)
            self._doorbell = -1
            self._memory.close()
