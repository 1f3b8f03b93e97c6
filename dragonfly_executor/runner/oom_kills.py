"""Tells whether the kernel's OOM killer struck, from the counters of this process's cgroup (Linux)."""

from __future__ import annotations

import os

V2 = ("/sys/fs/cgroup", "memory.events", "memory.max")
V1 = ("/sys/fs/cgroup/memory", "memory.oom_control", "memory.limit_in_bytes")
NO_LIMIT = 1 << 60
"""Smallest value that means "no limit". Version 1 shows a value near 2**63."""


class MemoryWatch:
    """A counter of the processes of this cgroup that the OOM killer has killed since the last query."""

    def __init__(self, root: str = "/", own: str = "/proc/self/cgroup") -> None:
        self._root = root
        self._folders, self._counter, self._limit = self._find(own)
        self._known = self._count()

    def _find(self, own: str) -> tuple[list[str], str, str]:
        """Return the cgroup's folder and its ancestors, and the names of the counter file and the limit file."""
        try:
            with open(own, encoding="utf-8", errors="surrogateescape") as listing:
                groups = [line.rstrip("\n").split(":", 2) for line in listing]
        except OSError:
            return [], "", ""
        wanted = sorted(
            ((V1 if "memory" in names.split(",") else V2), path)
            for number, names, path in groups
            if "memory" in names.split(",") or number == "0"
        )
        for (mount, counter, limit), path in wanted:
            # In a container the path may be the host's, while the mount is already the container's own cgroup.
            parts = path.strip("/").split("/")
            paths = ["/".join(parts[:length]) for length in range(len(parts), -1, -1)]
            folders = [os.path.join(self._root, mount.lstrip("/"), path) for path in paths]
            while folders and not os.path.exists(os.path.join(folders[0], counter)):
                del folders[0]
            if folders:
                return folders, counter, limit
        return [], "", ""

    def _count(self) -> int:
        if not self._folders:
            return 0
        try:
            with open(os.path.join(self._folders[0], self._counter), encoding="ascii") as events:
                return next(int(line.split()[1]) for line in events if line.startswith("oom_kill "))
        except (OSError, ValueError, StopIteration):
            return 0

    def has_killed(self) -> bool:
        """Return True if the kernel has killed a process here that no earlier call of this method reported."""
        if self._count() <= self._known:
            return False
        self._known += 1
        return True

    def limit(self) -> int | None:
        """Return the memory limit of all processes here together, in bytes; None if only the machine limits them."""
        limits = []
        for folder in self._folders:
            try:
                with open(os.path.join(folder, self._limit), encoding="ascii") as limit:
                    limits.append(int(limit.read()))
            except (OSError, ValueError):
                continue  # "max", or the top folder, which has no limit
        return min((limit for limit in limits if limit < NO_LIMIT), default=None)
