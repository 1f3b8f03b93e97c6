"""Serves proxies of multiprocessing's managers to slots on other machines. Messages pass as bytes, unopened."""

from __future__ import annotations

import threading

from dragonfly_executor.engine.objects.queues import wait_in_steps
from dragonfly_executor.engine.objects.request import ServedObject
from dragonfly_executor.engine.objects.semaphores import HeldSemaphores
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dragonfly_executor.engine.objects.request import Owner, Request, Session


class ServedProxy(ServedObject):
    """Serves a proxy. Each thread of a slot has a connection to the manager, which knows the owners of locks by it."""

    METHODS = frozenset({"call"})
    WAITING = METHODS

    def __init__(self, value: Any, semaphores: HeldSemaphores, shielded: Callable[[], object]) -> None:
        self._real = value
        self._connections: dict[Owner, Any] = {}
        self._lock = threading.Lock()

    def run(self, request: Request) -> Any:
        """Send a message of multiprocessing's own protocol to the manager, and return the answer."""
        connection = self._connection(request)
        connection.send_bytes(request.args[0])
        wait_in_steps(connection.poll, request, None)
        return connection.recv_bytes()

    def _connection(self, request: Request) -> Any:
        connection = self._connections.get(request.owner)
        if connection is None:
            from multiprocessing.managers import dispatch  # type: ignore[attr-defined]

            real = self._real
            connection = real._Client(real._token.address, authkey=real._authkey)  # noqa: SLF001
            dispatch(connection, None, "accept_connection", (f"slot {request.session.pid}",))
            with self._lock:
                self._connections[request.owner] = connection
            request.session.held.add(self)
            if request.session.is_gone:
                self.slot_is_gone(request.session)
                request.check()
        return connection

    def slot_is_gone(self, session: Session) -> None:
        """Close the connections of a slot that has ended."""
        with self._lock:
            for owner in [owner for owner in self._connections if owner[0] is session]:
                self._connections.pop(owner).close()


SERVED = {"BaseProxy": ServedProxy}
