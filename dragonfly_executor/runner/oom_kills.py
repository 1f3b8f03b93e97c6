"""Tells whether the kernel's OOM killer struck, from the counters of this process's cgroup (Linux)."""

from __future__ import annotations

import os

from dragonfly_executor.runner.cgroups import V1, V2, Cgroups, read

FILES = {V2: ("memory.events", "memory.max"), V1: ("memory.oom_control", "memory.limit_in_bytes")}
"""By version, the names of the counter file and the limit file."""
NO_LIMIT = 1 << 60
"""Smallest value that means "no limit". Version 1 shows a value near 2**63."""


class MemoryWatch:
    """A counter of the processes of this cgroup that the OOM killer has killed since the last query."""

    def __init__(self, cgroups: Cgroups | None = None) -> None:
        self._folders: list[str] = []
        """The cgroup's folder and its ancestors."""
        self._counter = self._limit = ""
        for version, folders in (cgroups or Cgroups()).folders("memory"):
            counter, limit = FILES[version]
            there = [place for place, folder in enumerate(folders) if os.path.exists(os.path.join(folder, counter))]
            if there:
                self._folders, self._counter, self._limit = folders[there[0] :], counter, limit
                break
        self._known = self._count()

    def _count(self) -> int:
        if not self._folders:
            return 0
        return oom_kills(read(self._folders[0], self._counter))

    def has_killed(self) -> bool:
        """Return True if the kernel has killed a process here that no earlier call of this method reported."""
        if self._count() <= self._known:
            return False
        self._known += 1
        return True

    def skip(self) -> None:
        """Forget the kills so far: they were in a cgroup below, and are reported as that."""
        self._known = max(self._known, self._count())

    def limit(self) -> int | None:
        """Return the memory limit of all processes here together, in bytes; None if only the machine limits them."""
        # The text is "max" if the folder has no limit, and the top folder has no such file.
        texts = [read(folder, self._limit).strip() for folder in self._folders]
        limits = [int(text) for text in texts if text.isdecimal()]
        return min((limit for limit in limits if limit < NO_LIMIT), default=None)


def oom_kills(events: str) -> int:
    """Return the number of killed processes in the text of such a counter file."""
    for line in events.splitlines():
        name, _, count = line.partition(" ")
        if name == "oom_kill" and count.isdecimal():
            return int(count)
    return 0
