"""`DriverWatch`: the driver's queries of its Ray cluster: why actors wait, and which of their nodes drain."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from dragonfly_executor.backends.ray.autoscaler import autoscaler_status

LOOK_EVERY = 5.0
"""Seconds between two looks while there are actors. Ray tells a driver neither why an actor waits nor that a node is
to go, and Ray's own libraries look as often."""


class WatchedActors(Protocol):
    """The actors of a driver. Any thread."""

    def count_waiting(self) -> int:
        """Return how many actors wait for a node."""
        ...

    def nodes(self) -> dict[str, str]:
        """Return Ray's id of the node of each actor that has one, by the actor's key."""
        ...


class DriverWatch:
    """Looks at the cluster on a thread of its own, and tells the parent what it sees.

    Args:
        actors: the driver's.
        send: sends a message to the parent: an event, an actor's key, a value.
    """

    def __init__(self, actors: WatchedActors, send: Callable[[str, str, Any], object]) -> None:
        self._actors, self._send = actors, send
        self._changed = threading.Event()
        self._told: dict[str, int] = {}
        """The deadline of the drain of an actor's node, as the parent was told, by the actor's key."""
        threading.Thread(target=self._run, daemon=True).start()

    def look_soon(self) -> None:
        """Have a look made at once, as there is one more actor."""
        self._changed.set()

    def _run(self) -> None:
        while True:
            has_actors = self._actors.count_waiting() or self._actors.nodes()
            self._changed.wait(LOOK_EVERY if has_actors else None)
            self._changed.clear()
            with suppress(Exception):  # Ray is gone or has another API: neither is a reason to end a runner
                self._look_at_drains()
            with suppress(Exception):
                self._look_at_queue()

    def _look_at_drains(self) -> None:
        nodes = self._actors.nodes()
        if not nodes:
            return
        from ray._private.state import state

        draining: dict[str, int] = state.get_draining_nodes()
        for key, node in nodes.items():
            deadline = draining.get(node, 0)  # milliseconds; 0 if the node may take its time
            if deadline and self._told.get(key) != deadline:
                self._told[key] = deadline
                self._send("draining", key, max(0.0, deadline / 1000 - time.time()))
        self._told = {key: deadline for key, deadline in self._told.items() if key in nodes}

    def _look_at_queue(self) -> None:
        if self._actors.count_waiting():
            self._send("cluster", "", look_at_cluster())


def look_at_cluster() -> tuple[Any, ...]:
    """Return the fields of a `ClusterLook`."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    autoscaler = ""
    with suppress(Exception):  # it may have another API
        autoscaler = autoscaler_status()
    return [node["Resources"] for node in alive], [node.get("Labels", {}) for node in alive], autoscaler
