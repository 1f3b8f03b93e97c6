"""Any stream as something that the loop can wait for.

A socket is one. What only has blocking `recv` and `sendall` (a paramiko channel, a pipe to a program) is pumped
through a socket pair by two threads, so that the loop waits for one kind of thing only. Where a stream is two
descriptors, as a program's standard input and output are, `DescriptorPair` makes them look like one socket.
"""

from __future__ import annotations

import os

from dragonfly_executor.transport.sockets import SO_SNDBUF, SOL_SOCKET, Socket, socketpair

# A runner imports this, and importing typing would take as long as all the rest. Type checkers take the name for true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from dragonfly_executor.transport.pump import Pump, Stream

    Buffer = bytes | bytearray | memoryview


PIPE_SIZE = 1024 * 1024
"""Bytes, which any user may have: with the usual 64 KiB a large payload costs many more changes of process."""


class DescriptorPair:
    """Two descriptors, one to read and one to write, with the methods of a socket that a link uses."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading = reading
        self._writing = writing
        _widen(reading, writing)

    def recv(self, size: int) -> bytes:
        """What is there, at most `size` bytes; nothing at the end."""
        return os.read(self._reading, size)

    def send(self, data: Buffer) -> int:
        """How much of it was written."""
        return os.write(self._writing, data)

    def sendmsg(self, buffers: Sequence[Buffer]) -> int:
        """How much of all of them was written."""
        return os.writev(self._writing, buffers)

    def setblocking(self, blocking: bool) -> None:
        """Of both."""
        os.set_blocking(self._reading, blocking)
        os.set_blocking(self._writing, blocking)

    def fileno(self) -> int:
        """The one to read."""
        return self._reading

    def write_fileno(self) -> int:
        """The one to write."""
        return self._writing

    def close(self) -> None:
        """Both. Twice is fine."""
        reading, self._reading = self._reading, -1
        writing, self._writing = self._writing, -1
        for fd in {reading, writing} - {-1}:
            os.close(fd)


def _widen(*descriptors: int) -> None:
    """Give pipes more room."""
    import fcntl

    for fd in descriptors:
        try:
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        except (AttributeError, OSError):
            return  # not this system, no pipe, or more than this user may have


def as_socket(stream: Stream) -> tuple[Socket, Pump | None]:
    """A socket whose bytes are the stream's, and what pumps them, if anything must.

    The stream is closed when the socket's other side is. Whoever closes the socket joins the pump after that.
    """
    if isinstance(stream, Socket):
        return stream, None
    from dragonfly_executor.transport.pump import PUMP_SIZE, Pump

    ours, theirs = socketpair()
    try:
        for sock in (ours, theirs):
            sock.setsockopt(SOL_SOCKET, SO_SNDBUF, PUMP_SIZE)
        return ours, Pump(stream, theirs)
    except BaseException:
        ours.close()
        theirs.close()
        raise
