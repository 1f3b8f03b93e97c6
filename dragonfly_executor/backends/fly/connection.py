"""A connection to the API that can be cut while somebody waits for an answer on it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import httpx


class Connection:
    """For one request at a time, and another one after that. It is made by the first one that needs it.

    Args:
        client: uses no other connection, and is closed with this one.
    """

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None
        """Of its own on the same connection: TLS takes the first one away from whoever has it."""
        self._is_cut = False

    def trace(self, step: str, said: Mapping[str, Any]) -> None:
        """Is told by httpx of each step of a request, as its extension "trace"."""
        # Through a proxy, too: whichever it is, this is where bytes leave for.
        if not step.endswith(".connect_tcp.complete"):
            return
        with self._lock, suppress(OSError):
            if self._handle is not None:
                self._handle.close()
            # Without one it is not cut, and ends with its time.
            self._handle = None
            self._handle = said["return_value"].get_extra_info("socket").dup()
            if self._is_cut:
                self._handle.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Let nothing more through, so that whoever waits for an answer is told. Any thread; does not block."""
        with self._lock, suppress(OSError):
            self._is_cut = True
            if self._handle is not None:
                self._handle.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it."""
        self.client.close()
        with self._lock:
            if self._handle is not None:
                self._handle.close()
            self._handle = None
