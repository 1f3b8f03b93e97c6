"""A simulator's HTTP server in a thread of its own, and the connections of its clients."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.routing import BaseRoute
from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE = 30.0
T = TypeVar("T")


class OpenConnections:
    """The connections of clients, by their address.

    Args:
        changed: called when one has ended.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._open: dict[tuple[str, int], asyncio.Transport] = {}
        self._changed = changed
        self._one_ended = asyncio.Event()

    def __len__(self) -> int:
        return len(self._open)

    def transport(self, peer: tuple[str, int]) -> asyncio.Transport | None:
        """The connection from there."""
        return self._open.get(peer)

    def cut(self) -> None:
        """End all of them. Clients find out when they use them next."""
        for transport in tuple(self._open.values()):
            transport.abort()

    async def close(self) -> None:
        """The same, and all sockets are closed afterwards."""
        self.cut()
        while self._open:
            self._one_ended.clear()
            await self._one_ended.wait()

    def protocol(self) -> type[asyncio.Protocol]:
        """uvicorn's, which tells of its connections."""
        open_ones = self._open

        class RecordingProtocol(H11Protocol):
            peer: tuple[str, int]

            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
                self.peer = tuple(transport.get_extra_info("peername")[:2])
                open_ones[self.peer] = transport
                super().connection_made(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                # The socket is closed only after this.
                asyncio.get_running_loop().call_soon(forget, self.peer)

        def forget(peer: tuple[str, int]) -> None:
            del open_ones[peer]
            self._one_ended.set()
            self._changed()

        return RecordingProtocol


class ServerThread:
    """A server on the loopback. `start` starts its thread.

    Args:
        name: of the thread.
        changed: called when a connection has ended.
        port: to listen on; 0 for a free one.

    Attributes:
        port: the port it listens on.
        loop: the thread's event loop.
        connections: those of clients that are open.
    """

    def __init__(self, name: str, changed: Callable[[], None], port: int = 0) -> None:
        # With its protocol named, or asyncio does not turn Nagle's algorithm off: 40 ms for every request.
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", port))
        self._listener.listen(256)
        self.port: int = self._listener.getsockname()[1]
        self.connections = OpenConnections(changed)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

    def start(self, routes: Sequence[BaseRoute], **settings: Any) -> None:
        """Serve these routes, with more settings for uvicorn."""
        config = uvicorn.Config(
            Starlette(routes=routes),
            http=self.connections.protocol(),
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            **settings,
        )
        self._server = uvicorn.Server(config)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the server's thread, and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE)

    def do(self, step: Callable[..., T], *args: Any) -> T:
        """Call a function in the server's thread, where nothing else happens meanwhile."""

        async def call() -> T:
            return step(*args)

        return self.run(call())

    def close(self) -> None:
        """End the server and its thread."""
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        self._listener.close()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._server.serve(sockets=[self._listener]))
        finally:
            self.loop.close()
