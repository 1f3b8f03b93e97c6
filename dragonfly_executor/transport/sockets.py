"""The parts of the module `socket` that a runner and its parent use.

Importing `socket` makes enumerations of all its constants, which takes longer than importing the rest of `transport`.
Of its additions to the socket class, only the ``with`` block is here.
"""

from __future__ import annotations

import sys
from _socket import (
    AF_UNIX,
    MSG_DONTWAIT,
    SHUT_RDWR,
    SHUT_WR,
    SO_RCVTIMEO,
    SO_SNDBUF,
    SOCK_DGRAM,
    SOCK_SEQPACKET,
    SOCK_STREAM,
    SOL_SOCKET,
)
from _socket import socket as Socket  # noqa: N812  # a class
from _socket import socketpair as connected_pair

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self

__all__ = [
    "MSG_DONTWAIT",
    "PACKETS",
    "SHUT_RDWR",
    "SHUT_WR",
    "SOL_SOCKET",
    "SO_RCVTIMEO",
    "SO_SNDBUF",
    "Buffer",
    "PairedSocket",
    "Socket",
    "socketpair",
]

Buffer = bytes | bytearray | memoryview

# macOS has no SOCK_SEQPACKET for unix sockets. Datagrams between a socket pair are as reliable there.
PACKETS = SOCK_SEQPACKET if sys.platform.startswith("linux") else SOCK_DGRAM


class PairedSocket(Socket):
    """One socket of a pair, with a ``with`` block that closes it."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def socketpair(kind: int = SOCK_STREAM) -> tuple[PairedSocket, PairedSocket]:
    """Return two connected Unix sockets of this kind."""
    one, other = connected_pair(AF_UNIX, kind)
    return PairedSocket(AF_UNIX, kind, 0, one.detach()), PairedSocket(AF_UNIX, kind, 0, other.detach())
