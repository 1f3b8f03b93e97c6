"""What a runner and its parent need of sockets, without the module `socket`.

That module makes enumerations of all its constants, which takes longer than to import the rest of `transport`. What it
adds to the sockets themselves (`makefile`, names for constants, `create_connection`) nothing here uses.
"""

from __future__ import annotations

from _socket import (
    AF_UNIX,
    MSG_DONTWAIT,
    SHUT_RDWR,
    SHUT_WR,
    SO_SNDBUF,
    SOCK_DGRAM,
    SOCK_SEQPACKET,
    SOL_SOCKET,
    socketpair,
)
from _socket import socket as Socket  # noqa: N812  # a class

__all__ = [
    "AF_UNIX",
    "MSG_DONTWAIT",
    "SHUT_RDWR",
    "SHUT_WR",
    "SOCK_DGRAM",
    "SOCK_SEQPACKET",
    "SOL_SOCKET",
    "SO_SNDBUF",
    "Socket",
    "socketpair",
]
