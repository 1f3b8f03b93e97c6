"""The pipes of a slot's output: one for stdout, one for stderr, and a socket for `logging` records.

Agent and slot both hold the reading ends. The side that reads, and when, determines which call a text belongs to (see
`slot_output_forwarder`). The two sides never read at the same time, so text stays in order.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

from dragonfly_executor.protocol.frames import MAX_INLINE, Flag, Kind, encode
from dragonfly_executor.transport.sockets import PACKETS, socketpair

MOST_READS = 16
"""Maximum reads of one pipe in a row, because a writer may be as fast as the reader.

One read empties a pipe of the usual size.
"""
MOST_RECORDS = 1024
TURN_TIMEOUT = 1.0
"""Seconds that a slot waits for its turn. The agent takes some milliseconds, unless it is stopped by a signal."""


class OutputPipes:
    """The pipes of one slot, made before the slot is forked."""

    def __init__(self, *, logs: bool) -> None:
        self.sources: dict[int, int] = {}
        """Descriptors that are still read, with the flags of their frames."""
        self._reading: list[int] = []
        self._writing: list[int] = []
        self._turn = os.pipe()
        """A pipe that holds one byte while neither side reads."""
        for fd in self._turn:
            os.set_blocking(fd, False)
        self.give_turn()
        self._add(0, *os.pipe())
        self._add(Flag.STDERR, *os.pipe())
        if logs:
            # Packets keep each record whole, even if several threads or forked children write at once.
            self._add(Flag.LOG, *(end.detach() for end in socketpair(PACKETS)))

    def _add(self, flags: int, reading: int, writing: int) -> None:
        os.set_blocking(reading, False)
        self.sources[reading] = flags
        self._reading.append(reading)
        self._writing.append(writing)

    def take_turn(self) -> bool:
        """Begin to read, unless the other side is reading. Return True if this side may read."""
        try:
            return bool(os.read(self._turn[0], 1))
        except BlockingIOError:
            return False

    def wait_for_turn(self) -> bool:
        """Wait until the other side does not read, then begin to read. Return False if that fails."""
        try:
            turn = select.poll()
            turn.register(self._turn[0], select.POLLIN)
            # Loops because the other side may take the byte first.
            while turn.poll(TURN_TIMEOUT * 1000):
                if self.take_turn():
                    return True
        except OSError:
            pass  # a call has closed this pipe
        return False

    def give_turn(self) -> None:
        """Let the other side read. The pipe may be closed on either side."""
        try:
            os.write(self._turn[1], b".")
        except OSError:
            return

    def frames(self, fd: int, call_id: int, attempt: int, pid: int) -> Iterator[bytes]:
        """Yield the data that a source holds now, as OUTPUT frames of this call."""
        flags = self.sources[fd]
        for _ in range(MOST_RECORDS if flags & Flag.LOG else MOST_READS):
            try:
                data = os.read(fd, MAX_INLINE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data = b""  # a call has closed this side
            if not data:
                # No process holds the writing end any more.
                del self.sources[fd]
                return
            yield encode(Kind.OUTPUT, call_id, data, flags=flags, attempt=attempt, detail=pid)

    def descriptors(self) -> list[int]:
        """Return all descriptors of these pipes that this process holds."""
        return [*self._reading, *self._writing, *self._turn]

    def keep_reading_ends(self) -> None:
        """Close the writing ends in the agent once the slot is forked, so that an end of file is seen."""
        for fd in self._writing:
            os.close(fd)
        self._writing.clear()

    def move_in(self) -> int | None:
        """Replace the slot's stdout and stderr by these pipes. Return the descriptor for log records, or None."""
        for number, fd in enumerate(self._writing[:2], 1):
            os.dup2(fd, number)
            os.close(fd)
        (log,) = self._writing[2:] or (None,)
        return log

    def close(self) -> None:
        """Close all descriptors."""
        for fd in self.descriptors():
            if fd >= 0:
                os.close(fd)
        self._reading.clear()
        self._writing.clear()
        self._turn = (-1, -1)
        self.sources.clear()


def occupy_standard_descriptors() -> None:
    """Occupy the descriptors 0 to 2 if they are free, so that `OutputPipes.move_in` overwrites no other file."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        continue
    os.close(fd)


def drop() -> None:
    """Discard the text that this slot writes to stdout and stderr."""
    fd = os.open(os.devnull, os.O_WRONLY)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
