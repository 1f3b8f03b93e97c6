"""A bounded table of connections that have yet to authenticate, and the choice of a connection that makes room.

The table is pure bookkeeping: nothing here touches a socket.
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
    addresses are counted by /64. Machines of one private network may share a /64, so within it addresses are counted by
    /112, the network of one Fly machine.
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


class PendingConnections(Generic[T]):
    """A table of at most `limit` connections, counted by network.

    If the table is full, the network with most connections loses one: first a connection that is not `favoured`, then
    the oldest. So a flood from one network displaces itself, and a flood from many networks displaces the oldest
    connections.
    """

    def __init__(self, limit: int) -> None:
        self._limit = max(1, limit)
        self._networks: dict[T, Networks] = {}
        self._favoured: set[T] = set()
        # By wide network, then by narrow network, in order of arrival.
        self._groups: dict[str, dict[str, dict[T, None]]] = {}
        self._sizes: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._networks)

    def __contains__(self, connection: T) -> bool:
        return connection in self._networks

    def items(self) -> list[T]:
        """Return all connections, oldest first."""
        return list(self._networks)

    def add(self, connection: T, networks: Networks) -> T | None:
        """Add a connection.

        Returns:
            The connection that the caller must drop to make room, already removed from the table; or None.
        """
        victim = self.make_room() if len(self._networks) >= self._limit else None
        wide, narrow = self._networks[connection] = networks
        self._groups.setdefault(wide, {}).setdefault(narrow, {})[connection] = None
        self._sizes[wide] = self._sizes.get(wide, 0) + 1
        return victim

    def prefer(self, connection: T) -> None:
        """Prefer to keep this connection: others from the same network are dropped before it."""
        if connection in self._networks:
            self._favoured.add(connection)

    def discard(self, connection: T) -> None:
        """Remove a connection. If it is not in the table, nothing changes."""
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
