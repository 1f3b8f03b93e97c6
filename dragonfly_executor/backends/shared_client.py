"""`SharedClient`: one client of an engine for all boots and nodes of a backend. It is open while there are any."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class EngineClient(Protocol):
    """A client of a cluster engine."""

    @property
    def is_broken(self) -> bool:
        """Return True if it has given up."""
        ...

    def close(self) -> None:
        """Close it. Blocks, for some seconds at most."""


C = TypeVar("C", bound=EngineClient)


class SharedClient(Generic[C]):
    """Connects when the first boot needs the client, and closes it with the last node. Any thread.

    Args:
        connect: makes a client.
    """

    def __init__(self, connect: Callable[[], C]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._uses: dict[int, int] = {}
        """Number of boots and nodes by the id of their client."""
        self._current: C | None = None

    def acquire(self) -> C:
        """Return the client, for one boot and its node. `release` has to follow."""
        with self._lock:
            if self._current is None or self._current.is_broken:
                self._current = self._connect()
            number = id(self._current)
            self._uses[number] = self._uses.get(number, 0) + 1
            return self._current

    def release(self, client: C) -> None:
        """Release a client, and close it if this was its last user."""
        with self._lock:
            self._uses[id(client)] -= 1
            if self._uses[id(client)]:
                return
            del self._uses[id(client)]
            if self._current is client:
                self._current = None
        client.close()
