"""The stand-in of an end of a multiprocessing pipe."""

from __future__ import annotations

import socket
from _thread import RLock
from contextlib import suppress

from dragonfly_executor.runner.reply_reader import ReplyTarget
from dragonfly_executor.runner.stand_ins import StandIn
from dragonfly_executor.util import plain_pickle as pickle
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.runner.stand_ins import Requests


class Readiness(ReplyTarget):
    """A socket that can be read as soon as the parent can receive from its end.

    The parent waits in a request, whose reply makes this slot write one byte to the socket. Each receive takes the
    byte out, and sends the next request.

    Args:
        client: sends the requests.
        number: the number of the connection.
    """

    def __init__(self, client: Requests, number: int) -> None:
        super().__init__()
        self._client = client
        self._number = number
        self._lock = RLock()  # a finalizer may close it in the middle of `wake`
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._token: int | None = None
        self._is_closed = False
        self.arm()

    def fileno(self) -> int:
        """Return the descriptor for selectors."""
        return self._reader.fileno()

    def arm(self) -> None:
        """Make the socket unreadable until the parent says that there is something to receive."""
        with self._lock:
            if self._token is not None or self._is_closed:
                return  # the parent waits already
            with suppress(BlockingIOError):
                self._reader.recv(1)
            self.arrived = bytearray()
            self._token = self._client.begin(self, self._number, "poll", None)

    def wake(self) -> None:
        """Make the socket readable. On an error, too: the next receive raises it."""
        with self._lock:
            self._token = None
            if not self._is_closed:
                with suppress(OSError):  # closed meanwhile
                    self._writer.send(b"\0")

    def close(self) -> None:
        """Close the socket, and note that the wait in the parent is over. Finalizers call this, at any point."""
        with self._lock:
            self._is_closed = True
            if self._token is not None and self._client.forget(self._token):
                self._client.drop(self._token, "cancel")
            self._reader.close()
            self._writer.close()


class ConnectionStandIn(StandIn):
    """Stands for an end of a `Pipe`."""

    ORIGINAL = ("multiprocessing.connection", "Connection")

    def __init__(self, client: Requests, number: int, detail: Any) -> None:
        super().__init__(client, number, detail)
        self.readable, self.writable = detail
        self.closed = False
        self._readiness: Readiness | None = None

    def send(self, obj: Any) -> None:
        """Send an object."""
        self._require(self.writable, "read-only")
        self._call("send", pickle.dumps(obj, 5))

    def send_bytes(self, buf: Any, offset: int = 0, size: int | None = None) -> None:
        """Send bytes as one message."""
        self._require(self.writable, "read-only")
        view = memoryview(buf).cast("B")
        end = len(view) if size is None else offset + size
        if offset < 0 or end < offset or end > len(view):
            raise ValueError("offset or size is negative, or beyond the end of the buffer")
        self._call("send", bytes(view[offset:end]))

    def recv(self) -> Any:
        """Wait for an object, and return it.

        Raises:
            EOFError: the other end is closed, and nothing is left.
        """
        return pickle.loads(self.recv_bytes())

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Wait for a message, and return its bytes.

        Raises:
            EOFError: the other end is closed, and nothing is left.
            OSError: the message has more than `maxlength` bytes.
        """
        self._require(self.readable, "write-only")
        if maxlength is not None and maxlength < 0:
            raise ValueError("negative maxlength")
        try:
            return self._call("receive", maxlength)  # type: ignore[no-any-return]
        finally:
            if self._readiness is not None:
                self._readiness.arm()

    def recv_bytes_into(self, buf: Any, offset: int = 0) -> int:
        """Wait for a message, copy its bytes into a buffer, and return their number."""
        view = memoryview(buf).cast("B")
        if not 0 <= offset <= len(view):
            raise ValueError("offset is negative, or beyond the end of the buffer")
        data = self.recv_bytes()
        if len(data) > len(view) - offset:
            from multiprocessing import BufferTooShort

            raise BufferTooShort(data)
        view[offset : offset + len(data)] = data
        return len(data)

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Return whether there is something to receive, within `timeout` seconds."""
        self._require(self.readable, "write-only")
        return self._call("poll", timeout)  # type: ignore[no-any-return]

    def fileno(self) -> int:
        """Return the descriptor of a socket that can be read when there is something to receive.

        It is for selectors and `multiprocessing.connection.wait`. Data read from it is not a message.
        """
        self._require(True, "")
        if self._readiness is None:
            self._require(self.readable, "write-only")
            self._readiness = Readiness(self._client, self.number)
        return self._readiness.fileno()

    def close(self) -> None:
        """Close this end in this slot."""
        if not self.closed:
            self._end()
            self._client.flush()

    def _end(self) -> None:
        self.closed = True
        if self._readiness is not None:
            self._readiness.close()
        self._client.drop(self.number)

    def _require(self, is_allowed: bool, what: str) -> None:
        if self.closed:
            raise OSError("handle is closed")
        if not is_allowed:
            raise OSError(f"connection is {what}")

    def __enter__(self) -> ConnectionStandIn:  # noqa: PYI034  # Self is in typing
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not self.closed:
            self._end()
