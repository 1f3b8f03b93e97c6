"""Addresses as machines have them: of the private network where they may be added to loopback, else `::1`.

Each simulator draws a network of its own, so several on one computer do not meet. The kernel forgets the addresses of a
simulator that was killed after an hour. What a machine's process connects to sees it come from any of them: which, is
the kernel's choice.
"""

from __future__ import annotations

import os
import random
import socket
import struct

LIFETIME = 3600
PREFIX_LENGTH = 112
LOOPBACK = "lo"

# What linux/netlink.h and linux/if_addr.h call them.
NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL = 0x01, 0x04, 0x400, 0x200
RTM_NEWADDR, RTM_DELADDR = 20, 21
IFA_ADDRESS, IFA_LOCAL, IFA_CACHEINFO, IFA_FLAGS = 1, 2, 6, 8
IFA_F_NODAD, IFA_F_NOPREFIXROUTE = 0x02, 0x200
"""Without the second, the kernel adds a route for the network of each address, and keeps it when the address is gone.
Each later removal of an address walks over all routes."""


class Addresses:
    """Gives addresses out and takes them back.

    Attributes:
        reason: why there are none of the private network; None if there are.
    """

    def __init__(self) -> None:
        draw = random.SystemRandom()
        self._network = f"{draw.randrange(1, 0xFFFF):x}:{draw.randrange(1, 0xFFFF):x}"
        self._count = 0
        self._given: set[str] = set()
        self.reason = self._try()

    def _try(self) -> str | None:
        try:
            self.take_back(self._given_next())
        except OSError as error:
            return f"no address can be added to loopback: {error.strerror}"
        return None

    def give(self) -> str:
        """An address that is on loopback now."""
        return "::1" if self.reason is not None else self._given_next()

    def take_back(self, address: str) -> None:
        """It is on loopback no more: as with a machine that has been destroyed."""
        if address in self._given:
            self._given.remove(address)
            change_loopback(RTM_DELADDR, address)

    def close(self) -> None:
        """All are taken back."""
        for address in tuple(self._given):
            self.take_back(address)

    def _given_next(self) -> str:
        # 16 bits fdaa, 32 the network, 32 the host, 32 the machine, and a /112 of its own (reference 3.2).
        self._count += 1
        address = f"fdaa:{self._network}:a7b:{self._count & 0xFFFF:x}:0:1:2"
        change_loopback(RTM_NEWADDR, address)
        self._given.add(address)
        return address


def change_loopback(change: int, address: str) -> None:
    """Add an address to loopback (RTM_NEWADDR), or take it away (RTM_DELADDR). ip(8) would be a process each time.

    Raises:
        OSError: the kernel says no.
    """
    binary = socket.inet_pton(socket.AF_INET6, address)
    index = socket.if_nametoindex(LOOPBACK)
    message = struct.pack("=BBBBI", socket.AF_INET6, PREFIX_LENGTH, IFA_F_NODAD, 0, index)
    message += _attribute(IFA_LOCAL, binary) + _attribute(IFA_ADDRESS, binary)
    flags = NLM_F_REQUEST | NLM_F_ACK
    if change == RTM_NEWADDR:
        flags |= NLM_F_CREATE | NLM_F_EXCL
        message += _attribute(IFA_FLAGS, struct.pack("=I", IFA_F_NODAD | IFA_F_NOPREFIXROUTE))
        message += _attribute(IFA_CACHEINFO, struct.pack("=IIII", LIFETIME, LIFETIME, 0, 0))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.send(struct.pack("=IHHII", 16 + len(message), change, flags, 1, 0) + message)
        answer = netlink.recv(65536)
    (code,) = struct.unpack_from("=i", answer, 16)
    if code:
        raise OSError(-code, os.strerror(-code))


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value
