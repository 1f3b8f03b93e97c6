"""How a TCP connection notices that the other end is gone, and does not dawdle. The same at both ends."""

from __future__ import annotations

import socket

USER_TIMEOUT = 30
"""Seconds that sent bytes may go unacknowledged. While there are any, keepalive does not probe."""
KEEP_IDLE, KEEP_INTERVAL, KEEP_COUNT = 10, 5, 4
"""Seconds of silence until the first probe, seconds between probes, probes without an answer."""

WILDCARDS = {"0.0.0.0", "::", ""}  # noqa: S104  # this is how they are found out


def tune(sock: socket.socket) -> None:
    """Set what a link needs; what the platform does not know is left out."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEP_IDLE),
        ("TCP_KEEPINTVL", KEEP_INTERVAL),
        ("TCP_KEEPCNT", KEEP_COUNT),
        ("TCP_USER_TIMEOUT", USER_TIMEOUT * 1000),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def join_address(host: str, port: int) -> str:
    """``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_address(address: str) -> tuple[str, int]:
    """The inverse; ValueError for what is no address."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise ValueError(f"not an address: {address!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)
