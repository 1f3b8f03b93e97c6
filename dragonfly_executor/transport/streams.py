"""Adapters that turn any stream into an object that the loop can wait for.

A socket needs no adapter. For a stream with only blocking `recv` and `sendall` (a paramiko channel, a pipe to a
program), two threads copy its bytes through a socket pair. So the loop waits for sockets only. If a stream is two
descriptors, such as a program's standard input and output, `DescriptorPair` gives them the interface of one socket.
"""

from __future__ import annotations

import os

from dragonfly_executor.transport.sockets import SO_SNDBUF, SOL_SOCKET, Socket, socketpair
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dragonfly_executor.transport.pump import ByteStream, Pump

    Buffer = bytes | bytearray | memoryview


PIPE_SIZE = 1024 * 1024
"""Size of a pipe's buffer in bytes. Any user may set it.

With the usual 64 KiB a large payload costs many more process switches.
"""


class DescriptorPair:
    """Two descriptors, one to read and one to write, with the methods of a socket that a link uses."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading = reading
        self._writing = writing
        _widen(reading, writing)

    def recv(self, size: int) -> bytes:
        """Return the available bytes, at most `size`; no bytes at the end."""
        return os.read(self._reading, size)

    def recv_into(self, view: memoryview) -> int:
        """Fill the view with the available bytes, and return their number; 0 at the end."""
        return os.readv(self._reading, [view])

    def send(self, data: Buffer) -> int:
        """Write `data`, and return how many bytes were written."""
        return os.write(self._writing, data)

    def sendmsg(self, buffers: Sequence[Buffer]) -> int:
        """Write the buffers, and return how many bytes were written in total."""
        return os.writev(self._writing, buffers)

    def setblocking(self, blocking: bool) -> None:
        """Set both descriptors to blocking or non-blocking mode."""
        os.set_blocking(self._reading, blocking)
        os.set_blocking(self._writing, blocking)

    def fileno(self) -> int:
        """Return the descriptor to read."""
        return self._reading

    def write_fileno(self) -> int:
        """Return the descriptor to write."""
        return self._writing

    def close(self) -> None:
        """Close both descriptors. Further calls do nothing."""
        reading, self._reading = self._reading, -1
        writing, self._writing = self._writing, -1
        for fd in {reading, writing} - {-1}:
            os.close(fd)


def _widen(*descriptors: int) -> None:
    """Enlarge the buffers of pipes."""
    import fcntl

    for fd in descriptors:
        try:
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        except (AttributeError, OSError):
            return  # the system does not support it, or this is not a pipe, or the user's limit is reached


def as_socket(stream: ByteStream) -> tuple[Socket, Pump | None]:
    """Return a socket with the stream's bytes, and the pump that copies them; None if no pump is needed.

    The pump closes the stream when the returned socket is closed. After closing the socket, the caller joins the pump.
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
