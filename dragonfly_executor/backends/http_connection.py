"""HTTP connections that another thread can abort, for clients of httpx and of its successor httpx2."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

KEPT_CONNECTIONS = 8
"""The maximum number of idle connections."""


class Closeable(Protocol):
    """A client of httpx or httpx2."""

    def close(self) -> None:
        """Close the client's connections."""


ClientT = TypeVar("ClientT", bound=Closeable)


class HttpConnection(Generic[ClientT]):
    """A reusable connection for one request at a time. The first request opens it.

    Args:
        client: an httpx client of its own, which may hold one connection only. `close` closes it.
    """

    def __init__(self, client: ClientT) -> None:
        self.client = client
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None
        """A duplicate of the connection's socket, as the TLS layer detaches the original."""
        self._is_cut = False

    def trace(self, step: str, said: Mapping[str, Any]) -> None:
        """Receive each step of a request: httpx calls this as its extension "trace"."""
        # This step reports the first hop, also if that is a proxy. All bytes leave through this socket.
        if not step.endswith(".connect_tcp.complete"):
            return
        with self._lock, suppress(OSError):
            if self._handle is not None:
                self._handle.close()
            # If dup() fails, the connection cannot be aborted and its timeout ends it.
            self._handle = None
            handle: socket.socket = said["return_value"].get_extra_info("socket").dup()
            self._handle = handle
            if self._is_cut:
                handle.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Shut the connection down, so that a thread that waits for a response fails. Any thread; does not block."""
        with self._lock, suppress(OSError):
            self._is_cut = True
            if self._handle is not None:
                self._handle.shutdown(socket.SHUT_RDWR)

    def descriptors(self) -> tuple[int, ...]:
        """Return the descriptor of the duplicate socket, if the connection is open."""
        with self._lock:
            return () if self._handle is None else (self._handle.fileno(),)

    def close(self) -> None:
        """Close the client and the duplicate socket."""
        self.client.close()
        with self._lock:
            if self._handle is not None:
                self._handle.close()
            self._handle = None


class ConnectionCache(Generic[ClientT]):
    """The idle connections to one server, for the next requests. Any thread.

    A context manager: connections stay open while at least one `with` block is active. Subclasses implement
    `_make_client`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._idle: list[HttpConnection[ClientT]] = []

    def __enter__(self) -> Self:
        with self._lock:
            self._users += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._users -= 1
            unused, self._idle = ([], self._idle) if self._users else (self._idle, [])
        for connection in unused:
            connection.close()

    def _make_client(self) -> ClientT:
        """Return a new client for one connection."""
        raise NotImplementedError

    def _take(self) -> HttpConnection[ClientT]:
        """Return an idle or a new connection, which no other thread uses meanwhile."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return HttpConnection(self._make_client())

    def _give_back(self, connection: HttpConnection[ClientT], *, may_be_kept: bool) -> None:
        """Keep the connection for the next request, or close it."""
        with self._lock:
            if may_be_kept and len(self._idle) < KEPT_CONNECTIONS:
                self._idle.append(connection)
                return
        connection.close()
