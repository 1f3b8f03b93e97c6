"""What goes wrong between a client and the API server, programmed by the test.

cluster.faults.on("create pods", nth=2, reply=too_many(1))
cluster.faults.on("create pods", cut=True)                  # carried out, and nobody is told
cluster.faults.on("create secrets", commit=False, cut=True) # the connection is cut before the request is carried out
cluster.faults.on("*", nth=k, before=kill)                  # the parent dies, its request is carried out
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.support.kubernetes_simulator.statuses import StatusError


@dataclass(slots=True)
class ServerFault:
    """What happens to some requests. The steps come in this order.

    Attributes:
        action: verb and resource, such as "create pods"; "*" for any.
        before: called in a thread of its own before anything else; the request waits for it.
        commit: whether it is carried out.
        after: called like `before`, when it has been carried out, and before it is answered.
        reply: is answered; None for the true answer.
        cut: the connection is cut instead of an answer.
        hang: it is never answered; the connection stays until the client ends it.
        garbage: bytes that are answered as the body, with status 200.
    """

    action: str = "*"
    nth: int = 1
    times: float = 1
    before: Callable[[str], object] | None = None
    commit: bool = True
    after: Callable[[str], object] | None = None
    reply: StatusError | None = None
    cut: bool = False
    hang: bool = False
    garbage: bytes | None = None
    seen: int = 0

    def wants(self, action: str) -> bool:
        """Whether this request is one of its own. Counts it if it fits."""
        if self.action not in ("*", action):
            return False
        self.seen += 1
        return self.nth <= self.seen < self.nth + self.times


class ServerFaults:
    """The faults to come. At most one meets a request: of those that want it, the one that was added first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[ServerFault] = []

    def on(
        self, action: str = "*", *, reply: StatusError | None = None, commit: bool | None = None, **what: Any
    ) -> ServerFault:
        """Let something happen to the `nth` fitting request from now on, and the `times - 1` after it."""
        fault = ServerFault(action, reply=reply, commit=reply is None if commit is None else commit, **what)
        with self._lock:
            self._faults.append(fault)
        return fault

    def take(self, action: str) -> ServerFault:
        """What happens to this request."""
        with self._lock:
            wanting = [fault for fault in self._faults if fault.wants(action)]
        return wanting[0] if wanting else ServerFault()

    def clear(self) -> None:
        """Nothing happens any more."""
        with self._lock:
            self._faults.clear()
