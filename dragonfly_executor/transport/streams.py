"""Any stream as a non-blocking socket.

A socket is one. What only has blocking `recv` and `sendall` (a paramiko channel, a pipe to a program) is pumped
through a socket pair by two threads, so that the loop waits for one kind of thing only.
"""

from __future__ import annotations

import socket
import threading
from typing import Protocol

PUMP_SIZE = 256 * 1024


class Stream(Protocol):
    """See `dragonfly_executor.backends.base.Stream`."""

    def recv(self, size: int, /) -> bytes:
        """At least one byte; nothing at the end."""

    def sendall(self, data: bytes, /) -> None:
        """Write everything."""

    def close(self) -> None:
        """End it."""


def as_socket(stream: Stream) -> socket.socket:
    """A socket whose bytes are the stream's; the stream is closed when the socket's other side is."""
    if isinstance(stream, socket.socket):
        return stream
    ours, theirs = socket.socketpair()
    for name, pump in (("in", _pump_in), ("out", _pump_out)):
        threading.Thread(target=pump, args=(stream, theirs), name=f"dragonfly-pump-{name}", daemon=True).start()
    return ours


def _pump_in(stream: Stream, sock: socket.socket) -> None:
    """From the stream to the socket, until either ends."""
    try:
        while data := stream.recv(PUMP_SIZE):
            sock.sendall(data)
    except OSError:
        return  # the link is told by the shutdown below
    finally:
        _shut_down(sock, socket.SHUT_WR)


def _pump_out(stream: Stream, sock: socket.socket) -> None:
    """From the socket to the stream, until either ends."""
    try:
        while data := sock.recv(PUMP_SIZE):
            stream.sendall(data)
    except OSError:
        return  # the other pump sees the stream's end
    finally:
        stream.close()
        _shut_down(sock, socket.SHUT_RD)
        sock.close()


def _shut_down(sock: socket.socket, how: int) -> None:
    try:
        sock.shutdown(how)
    except OSError:
        return  # it is gone already
