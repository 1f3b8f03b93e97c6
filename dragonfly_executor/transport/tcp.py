"""TCP options that detect a dead peer and avoid delays. Both ends use the same values."""

from __future__ import annotations

import socket

USER_TIMEOUT = 30
"""Seconds that sent bytes may stay unacknowledged. While there are such bytes, keepalive does not probe."""
KEEP_IDLE, KEEP_INTERVAL, KEEP_COUNT = 10, 5, 4
"""Seconds of silence until the first probe, seconds between probes, and number of probes without an answer."""

WILDCARDS = {"0.0.0.0", "::", ""}  # noqa: S104  # these are compared with, not bound to


def set_tcp_options(sock: socket.socket) -> None:
    """Set the options that a link needs. Options that the platform lacks are skipped."""
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
    """Return ``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of an address that `join_address` made.

    Raises:
        ValueError: the text is not such an address.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise ValueError(f"not an address: {address!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)
