"""The definitions of globals that travel with a call: each as it was last read, their order, and their encoding."""

from __future__ import annotations

import sys

from dragonfly_executor.serialization.payload_parts import LEAST
from dragonfly_executor.util import plain_pickle as pickle
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from dragonfly_executor.serialization.global_fingerprint import Fingerprint
    from dragonfly_executor.serialization.shared_object import SharedContent

    # Maps the names of a definition to a version number, which grows when the bytes change, and to the bytes.
    Versions: TypeAlias = dict[tuple[str, ...], tuple[float, bytes]]


class Definition:
    """A global of ``__main__``, as it was last read."""

    __slots__ = ("data", "hard", "modules", "parts", "shared", "soft", "value")

    def __init__(self, value: Any, data: bytes | None, hard: set[str], soft: set[str]) -> None:
        self.value = value
        self.data = data  # None: the slot binds this name by importing the script
        self.hard = hard  # names that must exist before this pickle is opened
        self.soft = soft  # names that the code of this global uses
        self.parts: Fingerprint | None = None  # None: the value may change in place in a way that cannot be checked
        self.shared: dict[int, SharedContent] = {}  # the shared objects in the value, whose handles may be closed
        self.modules = 0  # for a module: len(sys.modules) when its submodules were looked up

    @property
    def lasting(self) -> bool:
        """Return True if this definition may be cached.

        A value that may change in place is not cached: each call pickles it again.
        """
        if self.shared:
            return False
        return self.data is None or self.modules > 0 or self.parts is not None

    def unchanged(self, value: Any) -> bool:
        """Return True if the global is unchanged since this definition was made."""
        if value is not self.value:
            return False
        if self.modules:
            return self.modules == len(sys.modules)
        return self.data is None or (self.parts is not None and self.parts.holds())


class Plan:
    """The definitions for one set of names, valid as long as none of them changes."""

    __slots__ = ("absent", "entries", "sent", "versions")

    def __init__(
        self,
        entries: dict[str, Definition],
        absent: set[str],
        versions: Versions,
        sent: tuple[bytes, list[memoryview]],
    ) -> None:
        self.entries = entries
        self.absent = absent
        self.versions = versions
        self.sent = sent

    def holds(self, namespace: dict[str, Any], current: Versions) -> bool:
        """Return True if the plan is still valid."""
        if not namespace.keys().isdisjoint(self.absent):
            return False
        if not self.entries:
            return True  # Most plans: the slots import the script, which has all that the calls use.
        # A global that changed and changed back has a newer version than the plan's, and slots may have received that
        # version.
        if any(current[group] is not version for group, version in self.versions.items()):
            return False
        return all(entry.unchanged(namespace.get(name)) for name, entry in self.entries.items())


def encoded(versions: Versions) -> tuple[bytes, list[memoryview]]:
    """Encode definitions for a call. Large ones stand beside the pickle, so that a runner gets them once."""
    large: list[memoryview] = []
    sent = []
    for group, (version, data) in versions.items():
        is_large = len(data) >= LEAST
        if is_large:
            large.append(memoryview(data))
        sent.append((group, version, pickle.PickleBuffer(data) if is_large else data))
    return pickle.dumps(sent, 5, buffer_callback=lambda buffer: None) if sent else b"", large


def grouped(found: dict[str, Definition]) -> list[tuple[str, ...]]:
    """Return the groups of names in an order in which they can be opened. Names that need each other form one group."""
    reach = {name: _reach(name, found) for name in found}
    mutual = {name: {other for other in reach[name] if name in reach[other]} for name in found}
    groups = {name: tuple(sorted({name} | mutual[name])) for name in found}
    order: list[tuple[str, ...]] = []
    begun: set[tuple[str, ...]] = set()

    def emit(name: str) -> None:
        """Append the group of this name to the order, after the groups that it needs."""
        group = groups[name]
        if group in begun:
            return
        begun.add(group)
        needed = sorted(other for member in group for other in found[member].hard if other in found)
        for other in needed:
            emit(other)
        for other in needed:  # opening the group may run this code
            for used in sorted(found[other].soft):
                if used in found:
                    emit(used)
        order.append(group)

    for name in found:
        emit(name)
    return order


def _reach(name: str, found: dict[str, Definition]) -> set[str]:
    reached: set[str] = set()
    waiting = [name]
    while waiting:
        new = (found[waiting.pop()].hard & found.keys()) - reached
        reached |= new
        waiting += new
    return reached
