"""The containers of pools, found by their labels and by the journal."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

from dragonfly_executor.backends.docker.engine import DockerEngine, label_filter
from dragonfly_executor.backends.found_node import FoundNode, SweepResult
from dragonfly_executor.backends.journal import Journal, JournalEntry
from dragonfly_executor.backends.label import KIND, RUNNER, OwnerLabel
from dragonfly_executor.backends.leftovers import Leftovers, ListedNode
from dragonfly_executor.backends.owner import Owner

NEVER = 10 * 365 * 24 * 3600.0
"""Seconds until a label expires. An Engine may serve other machines, whose programs cannot be checked from here."""


class DockerLeftovers:
    """The containers of pools on one Engine.

    Args:
        engine: the Engine.
        journal: the journal, or None.
    """

    def __init__(self, engine: DockerEngine, journal: Journal | None) -> None:
        self._engine = engine
        self._place = f"{os.uname().nodename} {engine.socket}"
        self._found = Leftovers(journal, self._place)

    def entry(self, name: str, pool: str) -> JournalEntry:
        """Return the journal entry for a container that is about to be created. Its name is its id, too."""
        now = time.time()
        label = OwnerLabel(os.urandom(16).hex(), pool, Owner.me(), int(now + NEVER), int(NEVER))
        return JournalEntry(name, self._place, label, now, now + NEVER, name)

    def find(self) -> list[FoundNode]:
        """Return all containers of pools, of any process, running or not.

        Raises:
            DockerError: the Engine does not list its containers.
        """
        answer = self._engine.ask("GET", "/containers/json", query=label_filter(f"{KIND}={RUNNER}"))

        def look_up(name: str) -> ListedNode | None:
            """Return a container by its name."""
            found = self._engine.ask("GET", f"/containers/{name}/json", fine=(404,))
            return None if found.status_code == 404 else _read_detailed(name, found.json())

        return self._found.find([_read(said) for said in answer.json()], look_up)

    def destroy(self, nodes: Iterable[FoundNode]) -> SweepResult[FoundNode]:
        """Kill and remove these containers."""

        def remove(name: str) -> str:
            """Remove a container."""
            self._engine.remove(name)
            return ""

        return self._found.destroy(nodes, remove)

    def sweep(self) -> SweepResult[FoundNode]:
        """Remove the containers of pools that are gone.

        Raises:
            DockerError: the Engine does not list its containers.
        """
        return self.destroy([node for node in self.find() if node.is_orphan])


def _read(said: Mapping[str, Any]) -> ListedNode:
    """Read a container of the Engine's list. Its name has a slash in front."""
    name = next(iter(said.get("Names") or [said.get("Id", "")])).removeprefix("/")
    created = said.get("Created")
    when = float(created) if isinstance(created, int) else None
    label = OwnerLabel.decode(said.get("Labels") or {})
    return ListedNode(name, name, said.get("State", ""), label, when, said.get("Image", ""))


def _read_detailed(name: str, said: Mapping[str, Any]) -> ListedNode:
    """Read a container that was asked for by its name."""
    config, state = said.get("Config") or {}, said.get("State") or {}
    label = OwnerLabel.decode(config.get("Labels") or {})
    return ListedNode(name, name, state.get("Status", ""), label, None, config.get("Image", ""))
