"""`DashboardServer`: serves the page on this machine alone, in a thread of its own."""

from __future__ import annotations

import importlib.util
import os
import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.dashboard.http_thread import HttpThread
    from dragonfly_executor.dashboard.source import PoolSource

NEEDED = ("starlette", "uvicorn", "h11")
BACKLOG = 16


def check_installed(what: str) -> None:
    """Raise an error if the packages of the page are not installed.

    Args:
        what: what needs them, for the text of the error.

    Raises:
        ImportError: one of them is missing.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"{what} needs {' and '.join(missing)}: pip install 'dragonfly-executor[dashboard]'")


class DashboardServer:
    """A server of the page, which listens on the loopback interface.

    Args:
        name: names its thread.
        source: the pools that it shows.
        read_only: whether the page cannot kill calls and resize pools.
        port: the port; 0 for a free one.
        failed: gets the error that ended the server, if there is one.

    Raises:
        OSError: the port is in use, or there is no descriptor.
    """

    def __init__(
        self,
        name: str,
        source: PoolSource,
        *,
        read_only: bool,
        port: int = 0,
        failed: Callable[[BaseException], object] = lambda error: None,
    ) -> None:
        self._token = secrets.token_urlsafe(24)
        self._source = source
        self._read_only = read_only
        self._failed = failed
        self._lock = threading.Lock()
        """Guards `_http` and `_is_closed`: another thread may close the server while it starts."""
        self._http: HttpThread | None = None
        self._is_closed = False
        # With the protocol, because asyncio turns Nagle's algorithm off only then.
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(("127.0.0.1", port))
            self._listener.listen(BACKLOG)
            self._port: int = self._listener.getsockname()[1]
        except BaseException:
            self._listener.close()
            raise
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __repr__(self) -> str:
        return f"<DashboardServer on 127.0.0.1:{self._port}>"

    @property
    def url(self) -> str:
        """The address of the page, with its token. Everyone who knows it can use the page, so keep it out of logs."""
        return f"http://127.0.0.1:{self._port}/{self._token}/"

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: no thread can be started. The server is closed then.
        """
        try:
            self._thread.start()
        except BaseException:
            self._listener.close()
            raise

    def _run(self) -> None:
        try:
            # These packages take some 0.2 s to import, and nothing waits for them but the first request.
            from dragonfly_executor.dashboard.app import make_app
            from dragonfly_executor.dashboard.http_thread import HttpThread

            app = make_app(self._source, self._token, read_only=self._read_only)
            with self._lock:
                if self._is_closed:
                    return
                self._http = HttpThread(app, self._listener)
            self._http.run(self._source.close)
        except Exception as error:
            self._failed(error)
        finally:
            self._listener.close()

    def close(self) -> None:
        """Have the server end. Any thread may call this, and twice."""
        with self._lock:
            self._is_closed = True
            http = self._http
        if http is not None:
            http.stop()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread; `timeout` seconds at most. Returns False if it has not ended."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def abandon(self) -> None:
        """Close the descriptors in a forked child. They belong to the process that forked."""
        with suppress(OSError):
            self._listener.close()
        # Without the lock: the thread that holds it may not exist here.
        for fd in self._http.descriptors() if self._http is not None else ():
            with suppress(OSError):
                os.close(fd)
