"""For backends that speak HTTP: a request is cut when nobody waits for its answer any more."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from dragonfly_executor.backends.base import Signal


def cut_by(signal: Signal | None) -> Callable[[str, Mapping[str, Any]], None]:
    """Make the ``trace`` extension of an httpx request that shuts the request's connection down when a signal is set.

        client.post(url, extensions={"trace": cut_by(request.given_up)})

    The request then raises an `httpx.HTTPError`. It has to be the first request of its client: the connection is known
    from when it is made. Only for connections without TLS, such as unix sockets.

    Args:
        signal: such as `BootRequest.given_up`; None cuts nothing.
    """

    def trace(step: str, said: Mapping[str, Any]) -> None:
        if signal is not None and step.endswith((".connect_tcp.complete", ".connect_unix_socket.complete")):
            sock: socket.socket = said["return_value"].get_extra_info("socket")
            signal.call(lambda: _shut_down(sock))

    return trace


def _shut_down(sock: socket.socket) -> None:
    with suppress(OSError):  # it may be closed by now
        sock.shutdown(socket.SHUT_RDWR)
