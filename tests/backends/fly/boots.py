"""Boots without a pool, of machines on which nothing but a sleeper runs: for what is between the backend and Fly."""

from __future__ import annotations

from typing import Any

from dragonfly_executor import FlyBackend
from dragonfly_executor.backends.base import BootRequest, CancelToken
from dragonfly_executor.backends.fly.node import FlyNode
from dragonfly_executor.protocol.parent import Parent
from tests.backends.fly.asking import ASLEEP
from tests.support.fly_simulator.simulator import Simulator

ASLEEP_CONFIG = {"init": {"exec": ["python", "-c", ASLEEP]}}
"""A machine's config."""
CANARY = "ca" * 32
"""The token of these boots' runners."""
LONG = 30.0


class GivenUpInAPause(CancelToken):
    """Given up by somebody else as soon as whoever asks Fly waits between two questions."""

    def wait(self, timeout: float | None = None) -> bool:
        self.set()
        return super().wait(timeout)


def request(timeout: float = LONG, number: int = 1, given_up: CancelToken | None = None, **more: Any) -> BootRequest:
    """What a pool would ask for."""
    parent = Parent.new("Tests of Fly", number, "fly")
    parent = parent._replace(address="[fdaa::1]:1", fingerprint="00" * 32, token=CANARY)
    return BootRequest(number, parent, timeout, given_up)._replace(**more)


def boot(backend: FlyBackend, timeout: float = LONG, number: int = 1, **more: Any) -> FlyNode:
    """Have a backend boot a node."""
    node = backend.boot(request(timeout, number, **more))
    assert isinstance(node, FlyNode)
    return node


def nothing_is_left(fly: Simulator, backend: FlyBackend) -> None:
    """Neither there nor in the journal."""
    assert fly.history.left == []
    assert backend.journal is not None
    assert backend.journal.entries() == []
