"""What an SSH connection may stand on, with the methods of a socket: TCP, a way through another host, a program."""

from __future__ import annotations

import shlex
import socket
from contextlib import suppress

import paramiko

from dragonfly_executor.backends.ssh.child_processes import Program
from dragonfly_executor.backends.ssh.config import Target
from dragonfly_executor.errors import BootError

FIRST_SIZE = 64
QUICK_ACK = getattr(socket, "TCP_QUICKACK", None)
"""Linux has it."""


class Passage:
    """A way through a host to the next one, with the methods of a socket that paramiko uses.

    It may be closed by the next connection's own thread when the connection to that host is gone already, and nobody
    takes an error there.

    Args:
        channel: through the connection to that host.
    """

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self.recv = channel.recv
        self.send = channel.send
        self.settimeout = channel.settimeout
        self._closed = False

    def close(self) -> None:
        """As a socket's: twice is fine, never raises."""
        self._closed = True
        with suppress(Exception):
            self._channel.close()


class PromptSocket(socket.socket):
    """A TCP connection that acknowledges at once what it has received.

    sshd holds a small packet back until the one before is acknowledged (Nagle's algorithm), for sessions without a
    terminal always. Together with a kernel that waits 40 ms for something to acknowledge it with, a boot would stop for
    so long, and so would small results that follow each other.

    Attributes:
        first: the first bytes that came, for the error if they are no SSH server's.

    Args:
        sock: the connection; it is this one's from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        timeout = sock.gettimeout()
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self.settimeout(timeout)
        self.first = b""

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """As a socket's."""
        data = super().recv(size, flags)
        if len(self.first) < FIRST_SIZE:
            self.first += data
        if QUICK_ACK is not None:
            # The kernel falls back by itself to waiting: so each time.
            with suppress(OSError):  # it has just been closed
                self.setsockopt(socket.IPPROTO_TCP, QUICK_ACK, 1)
        return data


class Proxy:
    """A program that connects to a host, in the way of ssh's ProxyCommand: its input and output are the connection.

    Attributes:
        sock: the connection's own end.
    """

    def __init__(self, target: Target) -> None:
        command = f"exec {target.proxy_command}"
        try:
            self._program = Program(["/bin/sh", "-c", command])
        except OSError as error:
            quoted = shlex.quote(command)
            raise BootError(f"{target.label}: cannot run {quoted}: {error}", "connect") from error
        self.sock = self._program.sock
        self._is_closed = False

    def descriptors(self) -> list[int]:
        """What holds it open."""
        return [self.sock.fileno()] if self.sock.fileno() >= 0 else []

    def cut(self) -> None:
        """Let nothing more through."""
        self._program.cut()

    def abandon(self) -> None:
        """Cut it, and kill the program. Any thread; does not block."""
        self._program.kill()

    def close(self) -> None:
        """End the program. Twice is fine."""
        if not self._is_closed:
            self._is_closed = True
            self._program.end()
