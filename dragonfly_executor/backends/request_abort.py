"""Abort of an HTTP request when a signal is set, for backends that use httpx."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from dragonfly_executor.backends.base import Signal


def cut_by(signal: Signal | None) -> Callable[[str, Mapping[str, Any]], None]:
    """Return a ``trace`` extension for httpx that shuts down the request's connection when a signal is set.

        client.post(url, extensions={"trace": cut_by(request.given_up)})

    The request then raises an `httpx.HTTPError`. It must be the first request of its client, because the extension sees
    the connection only when it is made. It works only for connections without TLS, such as Unix sockets.

    Args:
        signal: such as `BootRequest.given_up`. None never aborts the request.
    """

    def trace(step: str, said: Mapping[str, Any]) -> None:
        if signal is not None and step.endswith((".connect_tcp.complete", ".connect_unix_socket.complete")):
            sock: socket.socket = said["return_value"].get_extra_info("socket")
            signal.call(lambda: _shut_down(sock))

    return trace


def _shut_down(sock: socket.socket) -> None:
    with suppress(OSError):  # the socket may be closed already
        sock.shutdown(socket.SHUT_RDWR)
