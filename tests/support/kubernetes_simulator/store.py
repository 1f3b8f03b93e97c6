"""The objects of the cluster, their resource versions, and the events that watches are made of."""

from __future__ import annotations

import copy
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tests.support.kubernetes_simulator import statuses

Json = dict[str, Any]
Key = tuple[str, str, str]
"""Resource, namespace, name."""


class StoredEvent(NamedTuple):
    """A change.

    Attributes:
        version: the resource version that it led to.
        kind: ADDED, MODIFIED or DELETED.
        key: of the object.
        object: the object afterwards, or as it was last.
    """

    version: int
    kind: str
    key: Key
    object: Json


class Store:
    """All objects.

    Attributes:
        version: the last resource version.
        floor: events up to this version are compacted, and cannot be watched any more.
        events: those after that.
        listeners: called after each change.
        uids: of every object that exists.
    """

    def __init__(self) -> None:
        self.version = 1000
        self.floor = 1000
        self.events: list[StoredEvent] = []
        self.listeners: list[Callable[[StoredEvent], object]] = []
        self._objects: dict[Key, Json] = {}

    def get(self, key: Key) -> Json:
        """A copy of an object.

        Raises:
            StatusError: 404.
        """
        if key not in self._objects:
            raise statuses.not_found(key[0], key[2])
        return copy.deepcopy(self._objects[key])

    def find(self, resource: str, namespace: str | None = None) -> list[Json]:
        """Copies of all objects of a kind."""
        return [
            copy.deepcopy(found)
            for (kind, place, _), found in self._objects.items()
            if kind == resource and namespace in (None, place)
        ]

    @property
    def uids(self) -> set[str]:
        return {found["metadata"]["uid"] for found in self._objects.values()}

    def add(self, key: Key, made: Json) -> Json:
        """Store a new object. Returns it as it is stored.

        Raises:
            StatusError: 409.
        """
        if key in self._objects:
            raise statuses.exists(key[0], key[2])
        stored = copy.deepcopy(made)
        metadata = stored["metadata"]
        metadata |= {"namespace": key[1], "uid": str(uuid.uuid4()), "creationTimestamp": now()}
        self._put("ADDED", key, stored)
        return copy.deepcopy(stored)

    def change(self, key: Key, change: Callable[[Json], object]) -> None:
        """Change an object in place; nothing happens if it is gone."""
        if key in self._objects:
            changed = copy.deepcopy(self._objects[key])
            change(changed)
            self._put("MODIFIED", key, changed)

    def remove(self, key: Key) -> None:
        """Remove an object; nothing happens if it is gone."""
        last = self._objects.pop(key, None)
        if last is not None:
            self._note("DELETED", key, copy.deepcopy(last))

    def compact(self) -> None:
        """Forget all events: a watch from an earlier version is answered with 410."""
        self.events.clear()
        self.floor = self.version

    def _put(self, kind: str, key: Key, stored: Json) -> None:
        self._objects[key] = stored
        self._note(kind, key, stored)

    def _note(self, kind: str, key: Key, stored: Json) -> None:
        self.version += 1
        stored["metadata"]["resourceVersion"] = str(self.version)
        event = StoredEvent(self.version, kind, key, copy.deepcopy(stored))
        self.events.append(event)
        for listener in tuple(self.listeners):
            listener(event)


def now(later: float = 0.0) -> str:
    """The time as Kubernetes writes it: whole seconds, UTC."""
    return datetime.fromtimestamp(time.time() + later, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
