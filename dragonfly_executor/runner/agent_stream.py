"""The slot's end of the stream to its agent."""

from __future__ import annotations

import os
from _thread import allocate_lock

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragonfly_executor.transport.sockets import Socket

    Buffer = bytes | bytearray | memoryview


class AgentStream:
    """A socket on which any thread of the slot may send whole frames.

    Args:
        sock: the slot's end of a socket pair, in blocking mode.
    """

    def __init__(self, sock: Socket) -> None:
        self._sock = sock
        self._send = sock.sendall
        self._lock = allocate_lock()
        self._acquire = self._lock.acquire
        self.receive: Callable[[memoryview], int] = sock.recv_into
        """Reads the next bytes that the agent sends. A `ReplyReader` replaces it."""
        self.sent = 0
        """Number of frames that were sent, or are being sent."""

    def send(self, frame: Buffer) -> None:
        """Send one frame, or several, without another thread's frame between them.

        Raises:
            OSError: the agent is gone.
        """
        # Each call sends a result: a `with` block takes as long again as the rest of this method.
        self._acquire()
        try:
            self.sent += 1
            self._send(frame)
        finally:
            self._lock.release()

    def send_chunk(self, header: Buffer, piece: Buffer) -> None:
        """Send one frame whose payload is not joined to its header.

        Raises:
            OSError: the agent is gone.
        """
        with self._lock:
            self.sent += 1
            # One write, so that the agent is woken once.
            sent = self._sock.sendmsg((header, piece))
            if sent < len(header):
                self._send(memoryview(header)[sent:])
                sent = len(header)
            if sent < len(header) + len(piece):
                self._send(memoryview(piece)[sent - len(header) :])

    def read(self, size: int) -> bytes:
        """Return the next bytes that the agent sends, at most `size`; none if the agent is gone."""
        return self._sock.recv(size)

    def receive_into(self, view: memoryview) -> None:
        """Fill the view with the next bytes that the agent sends. If the stream ends early, exit: the agent is gone."""
        while view:
            size = self.receive(view)
            if not size:
                os._exit(1)
            view = view[size:]
