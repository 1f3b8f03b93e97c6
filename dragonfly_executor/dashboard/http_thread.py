"""`HttpThread`: an asyncio loop that serves HTTP on one socket, by uvicorn's protocol.

uvicorn's own server looks ten times a second whether it shall end, handles signals, and sets up logging for the whole
process. A library must do none of that, so this uses its protocol alone.
"""

from __future__ import annotations

import asyncio
import logging
import selectors
import socket
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

# Errors alone: uvicorn warns of each request that is no HTTP, and any user of this machine can send one. Without a
# handler, such a warning would appear on the program's stderr.
LOGGER = logging.getLogger("dragonfly_executor.dashboard")
LOGGER.setLevel(logging.ERROR)
MOST_CONNECTIONS = 32
"""Connections that may be open at once. Later ones are closed at once."""
IDLE = 15
"""Seconds after which a connection without a request is closed."""
GRACE = 1.0
"""Seconds for running requests when the server ends."""


class _Refused(asyncio.Protocol):
    """A connection beyond `MOST_CONNECTIONS`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close it."""
        transport.close()


class HttpThread:
    """The loop of a server. The thread that calls `run` owns it.

    Args:
        app: the ASGI application.
        listener: the socket, which listens.
    """

    def __init__(self, app: Any, listener: socket.socket) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._loop = asyncio.SelectorEventLoop(self._selector)
        self._ended = asyncio.Event()
        self._state = ServerState()
        self._config = Config(
            app, http=H11Protocol, ws="none", lifespan="off", interface="asgi3", log_config=None,
            proxy_headers=False, server_header=False, date_header=False, timeout_keep_alive=IDLE,
        )  # fmt: skip
        self._config.load()
        # Without the wrapper that logs all requests, with the token in their paths, if the root logger's level is low.
        self._config.loaded_app = app

    def run(self, ending: Callable[[], object]) -> None:
        """Serve until `stop`. `ending` is called before connections are closed."""
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve(ending))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            self._loop.close()

    def stop(self) -> None:
        """Have `run` return. Any thread may call this, also after its end."""
        try:
            self._loop.call_soon_threadsafe(self._ended.set)
        except RuntimeError:
            return  # the loop is closed

    def descriptors(self) -> set[int]:
        """Return the descriptors of the loop and its connections, for a forked child."""
        try:
            watched = {key.fd for key in self._selector.get_map().values()}
            epoll = getattr(self._selector, "fileno", None)
            return watched - {self._listener.fileno()} | ({epoll()} if epoll is not None else set())
        except (AttributeError, RuntimeError, ValueError):
            return set()  # it was just being closed, or changed

    async def _serve(self, ending: Callable[[], object]) -> None:
        self._listener.setblocking(False)
        server = await self._loop.create_server(self._protocol, sock=self._listener)
        await self._ended.wait()
        server.close()
        ending()
        if self._state.tasks:
            await asyncio.wait(set(self._state.tasks), timeout=GRACE)
        for task in list(self._state.tasks):
            task.cancel()
        for connection in list(self._state.connections):
            connection.transport.abort()
        # The loop calls back the aborted connections, and closes their sockets, in its next pass.
        for _ in range(2):
            await asyncio.sleep(0)

    def _protocol(self) -> asyncio.Protocol:
        if len(self._state.connections) >= MOST_CONNECTIONS:
            return _Refused()
        protocol = H11Protocol(self._config, self._state, {}, self._loop)
        # Otherwise the paths of requests, which hold the token, are logged if the program logs at all.
        protocol.access_log = False
        protocol.logger = LOGGER
        self._loop.call_later(IDLE, _close_unused, protocol)
        made: asyncio.Protocol = protocol
        return made


def _close_unused(protocol: Any) -> None:
    """Close a connection that has sent no request. From its first request on, uvicorn's timeout counts."""
    if protocol.cycle is None and protocol.transport is not None:
        protocol.transport.close()
