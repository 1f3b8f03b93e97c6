"""A relay to a host that counts bytes and can cut connections."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from tests.support.sshd.host import Host, public_half


class Relay:
    """A relay that forwards connections to a host.

    Attributes:
        sent: bytes that went to the host.
        connections: how many there were.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.sent = 0
        self.connections = 0
        self._socks: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="relay", daemon=True)]
        self._threads[0].start()

    @property
    def spec(self) -> str:
        """Return the relay's address and port, as users write it."""
        return f"127.0.0.1:{self.port}"

    @property
    def known_as(self) -> str:
        """Return the host's line in a known_hosts file, under the relay's address."""
        return f"[127.0.0.1]:{self.port} {public_half(self._host.key)}\n"

    def close(self) -> None:
        """Close the listener and all connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5.0)
        for sock in self._socks:
            sock.close()

    def cut(self) -> None:
        """Close the current connections."""
        for sock in self._socks:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            far = socket.create_connection((self._host.address, self._host.port))
            self._socks += [near, far]
            for source, target in ((near, far), (far, near)):
                thread = threading.Thread(target=self._pump, args=(source, target), name="relay", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        to_host = target.getpeername()[1] == self._host.port
        with suppress(OSError):
            while data := source.recv(65536):
                if to_host:
                    self.sent += len(data)
                target.sendall(data)
        for sock in (source, target):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
