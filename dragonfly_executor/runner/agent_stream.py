"""The slot's end of the stream to its agent."""

from __future__ import annotations

import os
from _thread import allocate_lock

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.transport.sockets import Socket

    Buffer = bytes | bytearray | memoryview


class AgentStream:
    """A socket on which any thread of the slot may send whole frames.

    Args:
        sock: the slot's end of a socket pair, in blocking mode.
    """

    def __init__(self, sock: Socket) -> None:
        self._sock = sock
        self._lock = allocate_lock()

    def send(self, *parts: Buffer) -> None:
        """Send the parts of one frame, or of several, without another thread's frame between them.

        Raises:
            OSError: the agent is gone.
        """
        with self._lock:
            if len(parts) == 1:
                self._sock.sendall(parts[0])
                return
            # The agent is woken once, by all parts.
            sent = self._sock.sendmsg(parts)
            for part in parts:
                if sent < len(part):
                    self._sock.sendall(memoryview(part)[sent:])
                sent = max(0, sent - len(part))

    def receive_into(self, view: memoryview) -> None:
        """Fill the view with the next bytes that the agent sends. If the stream ends early, exit: the agent is gone."""
        while view:
            size = self._sock.recv_into(view)
            if not size:
                os._exit(1)
            view = view[size:]
