"""What a slot writes goes through pipes: one for stdout, one for stderr, and a socket for records of `logging`.

Agent and slot both hold the reading ends. Which of them reads when is what tells whose text it is: see
`slot_output_forwarder`. They
never read at the same time: else what the one had read first could be sent after what the other read then.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

from dragonfly_executor.protocol.frames import MAX_INLINE, Flag, Kind, encode
from dragonfly_executor.transport.sockets import PACKETS, socketpair

MOST_READS = 16
"""Of one pipe at a time. One read empties a pipe of the usual size; whoever fills it while it is read is not waited
for."""
MOST_RECORDS = 1024
TURN_PATIENCE = 1.0
"""Seconds that a slot waits for its turn; the agent takes some milliseconds, unless somebody has stopped it."""


class Pipes:
    """The pipes of one slot, made before it is forked."""

    def __init__(self, *, logs: bool) -> None:
        self.sources: dict[int, int] = {}
        """What is still read: descriptors, and the flags of what comes from them."""
        self._reading: list[int] = []
        self._writing: list[int] = []
        self._turn = os.pipe()
        """It holds one byte, while nobody reads."""
        for fd in self._turn:
            os.set_blocking(fd, False)
        self.give_turn()
        self._add(0, *os.pipe())
        self._add(Flag.STDERR, *os.pipe())
        if logs:
            # Packets: whoever writes, a thread or a forked child, the records stay whole.
            self._add(Flag.LOG, *(end.detach() for end in socketpair(PACKETS)))

    def _add(self, flags: int, reading: int, writing: int) -> None:
        os.set_blocking(reading, False)
        self.sources[reading] = flags
        self._reading.append(reading)
        self._writing.append(writing)

    def take_turn(self) -> bool:
        """Begin to read, if the other side does not just now."""
        try:
            return bool(os.read(self._turn[0], 1))
        except BlockingIOError:
            return False

    def wait_for_turn(self) -> bool:
        """Begin to read when the other side does not; False where it cannot be asked."""
        try:
            turn = select.poll()
            turn.register(self._turn[0], select.POLLIN)
            # The other side may be quicker.
            while turn.poll(TURN_PATIENCE * 1000):
                if self.take_turn():
                    return True
        except OSError:
            pass  # a call has closed this
        return False

    def give_turn(self) -> None:
        """Let the other side read, who may find its end closed."""
        try:
            os.write(self._turn[1], b".")
        except OSError:
            return

    def frames(self, fd: int, call_id: int, attempt: int, pid: int) -> Iterator[bytes]:
        """What there is to read from one of the sources, as frames of this call."""
        flags = self.sources[fd]
        for _ in range(MOST_RECORDS if flags & Flag.LOG else MOST_READS):
            try:
                data = os.read(fd, MAX_INLINE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data = b""  # a call has closed this side
            if not data:
                # Nobody can write to it any more.
                del self.sources[fd]
                return
            yield encode(Kind.OUTPUT, call_id, data, flags=flags, attempt=attempt, detail=pid)

    def descriptors(self) -> list[int]:
        """All that this process holds of them."""
        return [*self._reading, *self._writing, *self._turn]

    def keep_reading_ends(self) -> None:
        """In the agent, once the slot is forked: only who writes may hold a writing end."""
        for fd in self._writing:
            os.close(fd)
        self._writing.clear()

    def move_in(self) -> int | None:
        """In the slot: make its stdout and stderr these pipes. The descriptor for log records, if there is one."""
        for number, fd in enumerate(self._writing[:2], 1):
            os.dup2(fd, number)
            os.close(fd)
        (log,) = self._writing[2:] or (None,)
        return log

    def close(self) -> None:
        """Let go of everything."""
        for fd in self.descriptors():
            if fd >= 0:
                os.close(fd)
        self._reading.clear()
        self._writing.clear()
        self._turn = (-1, -1)
        self.sources.clear()


def occupy_standard_descriptors() -> None:
    """Take the numbers 0 to 2, as far as they are free: what is opened from now on must not be moved over."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        continue
    os.close(fd)


def drop() -> None:
    """In the slot: throw away what is written to its stdout and stderr."""
    fd = os.open(os.devnull, os.O_WRONLY)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
