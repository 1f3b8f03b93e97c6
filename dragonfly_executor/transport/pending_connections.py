"""A bounded table of connections that have yet to prove what they are, and which of them makes room for another.

Pure bookkeeping: nothing here touches a socket.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Generic, TypeVar

T = TypeVar("T")
Networks = tuple[str, str]
"""The wide and the narrow network by which an address is counted."""


def networks_of(address: str) -> Networks:
    """Return the networks by which the connections from one address are counted.

    An IPv4 address counts by itself. The owner of an IPv6 address has many more: a provider's customer has a /64, so
    they are counted by /64. Machines of one private network may share a /64, so within it they are counted by /112,
    which is what one Fly machine has.
    """
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return address, address
    if ip.version == 6 and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.version == 4:
        return str(ip), str(ip)
    digits = ip.packed.hex()
    return digits[:16], digits[:28]


class Waiting(Generic[T]):
    """At most `limit` connections, counted by where they come from.

    If one more comes, the network that has most of them gives one up: first one that is not `favoured`, then the
    oldest. So a flood from one place makes room for itself, and one from many places for those that came last.
    """

    def __init__(self, limit: int) -> None:
        self._limit = max(1, limit)
        self._networks: dict[T, Networks] = {}
        self._favoured: set[T] = set()
        # By wide network, then by narrow one, in the order in which they came.
        self._groups: dict[str, dict[str, dict[T, None]]] = {}
        self._sizes: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._networks)

    def __contains__(self, connection: T) -> bool:
        return connection in self._networks

    def items(self) -> list[T]:
        """Return all connections, the oldest first."""
        return list(self._networks)

    def add(self, connection: T, networks: Networks) -> T | None:
        """Add a connection. Return the one that has to be dropped for it, which is no longer in the table."""
        victim = self.make_room() if len(self._networks) >= self._limit else None
        wide, narrow = self._networks[connection] = networks
        self._groups.setdefault(wide, {}).setdefault(narrow, {})[connection] = None
        self._sizes[wide] = self._sizes.get(wide, 0) + 1
        return victim

    def favour(self, connection: T) -> None:
        """Drop others from the same network before this connection."""
        if connection in self._networks:
            self._favoured.add(connection)

    def discard(self, connection: T) -> None:
        """Remove a connection; fine if it is not in the table."""
        networks = self._networks.pop(connection, None)
        if networks is None:
            return
        wide, narrow = networks
        self._favoured.discard(connection)
        group = self._groups[wide]
        del group[narrow][connection]
        if not group[narrow]:
            del group[narrow]
        self._sizes[wide] -= 1
        if not self._sizes[wide]:
            del self._groups[wide], self._sizes[wide]

    def make_room(self) -> T | None:
        """Remove and return the connection to drop next; None if the table is empty."""
        if not self._networks:
            return None
        group = self._groups[max(self._sizes, key=self._sizes.__getitem__)]
        crowd = max(group.values(), key=len)
        victim = next((one for one in crowd if one not in self._favoured), None) if self._favoured else None
        if victim is None:
            victim = next(iter(crowd))
        self.discard(victim)
        return victim
