"""Socket-like objects below an SSH connection: TCP, a channel through a jump host, a proxy command."""

from __future__ import annotations

import shlex
import socket
from contextlib import suppress

import paramiko

from dragonfly_executor.backends.child_processes import Program
from dragonfly_executor.backends.ssh.config import Target
from dragonfly_executor.errors import BootError

FIRST_SIZE = 64
QUICK_ACK = getattr(socket, "TCP_QUICKACK", None)
"""Only Linux has it."""


class JumpChannel:
    """A channel through a jump host, with the socket methods that paramiko uses.

    The next connection's thread may close it after the jump host's connection is lost. That thread does not catch
    errors there.

    Args:
        channel: a channel of the connection to the jump host.
    """

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self.recv = channel.recv
        self.send = channel.send
        self.settimeout = channel.settimeout
        self._closed = False

    def close(self) -> None:
        """Close the channel. May be called twice. Never raises."""
        self._closed = True
        with suppress(Exception):
            self._channel.close()


class QuickAckSocket(socket.socket):
    """A TCP connection that acknowledges received data at once.

    For sessions without a terminal, sshd always delays a small packet until the previous one is acknowledged (Nagle's
    algorithm). The kernel delays acknowledgements by 40 ms. Together they delay each boot, and small results in a
    row, by 40 ms.

    Attributes:
        first: the first bytes received, for the error if the peer is no SSH server.

    Args:
        sock: the connection. This object takes it over.
    """

    def __init__(self, sock: socket.socket) -> None:
        timeout = sock.gettimeout()
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self.settimeout(timeout)
        self.first = b""

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Receive up to `size` bytes, and acknowledge them at once."""
        data = super().recv(size, flags)
        if len(self.first) < FIRST_SIZE:
            self.first += data
        if QUICK_ACK is not None:
            # The kernel resets this option on its own, so set it after each read.
            with suppress(OSError):  # the socket has just been closed
                self.setsockopt(socket.IPPROTO_TCP, QUICK_ACK, 1)
        return data


class ProxyProgram:
    """A program that connects to a host, like ssh's ProxyCommand. Its input and output are the connection.

    Attributes:
        sock: the parent's end of the connection.
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
        """Return the descriptors that hold the connection open."""
        return [self.sock.fileno()] if self.sock.fileno() >= 0 else []

    def cut(self) -> None:
        """Shut the connection down. Any thread; does not block."""
        self._program.cut()

    def abandon(self) -> None:
        """Shut the connection down, and kill the program. Any thread; does not block."""
        self._program.kill()

    def close(self) -> None:
        """End the program. May be called twice."""
        if not self._is_closed:
            self._is_closed = True
            self._program.end()
