"""The Unix socket on which a pool answers ``dragonfly status`` and ``dragonfly top``.

The engine's loop serves it: there is no thread, and nothing runs until a client connects. A request is a JSON object on
one line, and so is its answer.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress

from dragonfly_executor.engine.observing.runtime_directory import SOCKET, UNFINISHED, make_directory, sweep
from dragonfly_executor.protocol.stdlib_json import json
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from dragonfly_executor.transport.loop import Loop, Timer

    Answer: TypeAlias = Callable[[Mapping[str, Any]], Mapping[str, Any]]

PAUSE = 1.0
"""Seconds without accepting clients after the process has run out of descriptors."""
MAX_CLIENTS = 8
MAX_REQUEST = 4096
"""Maximum number of bytes of a request."""
_CREDENTIALS = struct.Struct("3i")
"""Process, user and group of a peer, as SO_PEERCRED gives them."""


class StatusSocket:
    """The socket of a pool. It belongs to the engine thread.

    If it cannot be opened (a full disk, a folder of another user), the pool works without it.

    Args:
        loop: the engine's.
        answer: returns the answer to a request; both are JSON objects.
    """

    def __init__(self, loop: Loop, answer: Answer) -> None:
        self._loop = loop
        self._answer = answer
        self._path = ""
        self._socket: socket.socket | None = None
        self._clients: set[StatusClient] = set()
        self.problem: OSError | None = None
        """The error because of which the socket could not be opened."""
        self._timer: Timer | None = None

    def open(self) -> None:
        """Listen. If that fails, `problem` says why."""
        try:
            directory = make_directory()
            if directory is None:
                return
            sweep(directory)
            self._listen(f"{directory}/{os.getpid()}-{id(self):x}{SOCKET}")
        except OSError as error:
            self.problem = error
            self.close()

    def _listen(self, path: str) -> None:
        unfinished = f"{os.path.dirname(path)}/.{os.path.basename(path)}{UNFINISHED}"  # noqa: PTH119, PTH120
        with suppress(FileNotFoundError):
            os.unlink(unfinished)  # noqa: PTH108  # of a process that was killed, and had this number
        listener = self._socket = socket.socket(socket.AF_UNIX)
        listener.setblocking(False)
        listener.bind(unfinished)
        self._path = unfinished
        # No program can connect before `listen`. A socket with its final name listens, so one that refuses is stale.
        os.chmod(unfinished, 0o600)  # noqa: PTH101
        listener.listen(MAX_CLIENTS)
        os.rename(unfinished, path)  # noqa: PTH104
        self._path = path
        self._loop.add_reader(listener.fileno(), self._on_connection)

    def _on_connection(self) -> None:
        listener = self._socket
        if listener is None:
            return
        try:
            connection, _ = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                # The client still waits, so the socket stays readable.
                self._loop.remove_reader(listener.fileno())
                self._timer = self._loop.call_later(PAUSE, self._resume)
            return
        if len(self._clients) >= MAX_CLIENTS or not _is_own(connection):
            connection.close()
            return
        connection.setblocking(False)
        self._clients.add(StatusClient(self._loop, connection, self._answer, self._clients.discard))

    def _resume(self) -> None:
        self._timer = None
        if self._socket is not None:
            self._loop.add_reader(self._socket.fileno(), self._on_connection)

    def abandon(self) -> None:
        """Close the descriptors in a forked child. The socket belongs to the process that forked."""
        for each in (self._socket, *(client.socket for client in list(self._clients))):
            if each is not None:
                with suppress(OSError):  # the parent was closing it when it forked
                    each.close()

    def close(self) -> None:
        """Remove the socket, and hang up on all clients. Calling it twice is fine."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for client in list(self._clients):
            client.close()
        listener, self._socket = self._socket, None
        if listener is None:
            return
        self._loop.remove_reader(listener.fileno())
        listener.close()
        if self._path:
            with suppress(OSError):
                os.unlink(self._path)  # noqa: PTH108


class StatusClient:
    """A connection of a client. It gets one answer at a time, so that a client which does not read holds one answer.

    Args:
        loop, answer: the socket's.
        connection: the connection.
        on_closed: called with this object when the connection has ended.
    """

    def __init__(
        self, loop: Loop, connection: socket.socket, answer: Answer, on_closed: Callable[[StatusClient], object]
    ) -> None:
        self.socket = connection
        self._loop = loop
        self._answer = answer
        self._on_closed = on_closed
        self._received = b""
        self._unsent = memoryview(b"")
        loop.add_reader(connection.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        try:
            data = self.socket.recv(MAX_REQUEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._received += data
        if not data or (len(self._received) > MAX_REQUEST and b"\n" not in self._received):
            self.close()
            return
        self._answer_next()

    def _answer_next(self) -> None:
        """Answer requests until one answer cannot be sent whole, or there is no request."""
        while not self._unsent and b"\n" in self._received:
            line, _, self._received = self._received.partition(b"\n")
            self._unsent = memoryview(_encoded(self._answered(line)))
            self._send()

    def _answered(self, line: bytes) -> Mapping[str, Any]:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                return {"error": "a request is a JSON object"}
            return self._answer(request)
        except Exception as error:  # the pool must go on, whatever a client sends
            return {"error": f"{type(error).__name__}: {error}"}

    def _send(self) -> None:
        try:
            while self._unsent:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
        except BlockingIOError:
            # It reads no further requests meanwhile.
            self._loop.remove_reader(self.socket.fileno())
            self._loop.add_writer(self.socket.fileno(), self._on_writable)
        except OSError:
            self.close()

    def _on_writable(self) -> None:
        self._loop.remove_writer(self.socket.fileno())
        self._send()
        if not self._unsent and self.socket.fileno() >= 0:
            self._loop.add_reader(self.socket.fileno(), self._on_readable)
            self._answer_next()

    def close(self) -> None:
        """Hang up. Calling it twice is fine."""
        if self.socket.fileno() < 0:
            return
        self._loop.remove_reader(self.socket.fileno())
        self._loop.remove_writer(self.socket.fileno())
        self.socket.close()
        self._unsent, self._received = memoryview(b""), b""
        self._on_closed(self)


def _encoded(answer: Mapping[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\n"


def _is_own(connection: socket.socket) -> bool:
    """Return True if the peer is this user or root. The mode of the socket keeps others off already."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True  # macOS
    _, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size))
    return uid in (os.geteuid(), 0)
