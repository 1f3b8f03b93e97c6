"""The slot's end of the stream to its agent."""

from __future__ import annotations

import os
from _thread import allocate_lock

from dragonfly_executor.protocol.frames import HEADER, HEADER_SIZE, Kind
from dragonfly_executor.transport.sockets import MSG_DONTWAIT
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ClassVar, Protocol

    from dragonfly_executor.transport.sockets import Socket

    Buffer = bytes | bytearray | memoryview

    class CallReports(Protocol):
        """The reports of calls about their progress."""

        def add(self, done: float, total: float | None, text: str) -> None: ...
        def end_call(self) -> None: ...


ITEMS = int(Kind.ITEMS)
NO_CALL = (0, 0)
"""The id and attempt of no call."""


class AgentStream:
    """A socket on which any thread of the slot may send whole frames.

    Args:
        sock: the slot's end of a socket pair, in blocking mode.

    Attributes:
        of_process: the stream of this process; None if it is no slot.
        is_here: returns False in children that this process forks.
        running: id and attempt of the call that runs; `NO_CALL` for none. It is the same object while the call runs.
        reports: what calls report of their progress; None before the first report.
    """

    of_process: ClassVar[AgentStream | None] = None
    running: tuple[int, int] = NO_CALL
    reports: CallReports | None = None

    def __init__(self, sock: Socket, is_here: Callable[[], bool] = lambda: True) -> None:
        self.is_here = is_here
        self._sock = sock
        self._send = sock.sendall
        self._lock = allocate_lock()
        self._acquire = self._lock.acquire
        self.receive: Callable[[memoryview, int, int], int] = sock.recv_into
        """Reads the next bytes that the agent sends, with the arguments of `recv_into`. A `ReplyReader` replaces it."""
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
            size = self.receive(view, 0, 0)
            if not size:
                os._exit(1)
            view = view[size:]

    def receive_header(self, header: memoryview) -> None:
        """Fetch the header of the next frame, except those of messages to calls that have ended."""
        self.receive_into(header)
        while header[0] == ITEMS:
            self.receive_into(header)  # a message has no payload

    def receive_message(self, *, wait: bool) -> tuple[int, tuple[int, int], int] | None:
        """Return the parent's next message to a call; None if none is there, and `wait` is False.

        Returns:
            The flags, id and attempt of the call, and the number that the message brings.
        """
        header = memoryview(bytearray(HEADER_SIZE))
        try:
            size = self.receive(header, 0, 0 if wait else MSG_DONTWAIT)
        except BlockingIOError:
            return None
        if not size:
            os._exit(1)
        self.receive_into(header[size:])
        _, flags, attempt, number, call_id, _ = HEADER.unpack(header)
        return flags, (call_id, attempt), number
