"""The folders of this process's cgroups, and the limits in them (Linux)."""

from __future__ import annotations

import os
from collections.abc import Iterable

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

V1: Final = 1
V2: Final = 2
OWN: Final = "/proc/self/cgroup"
MOUNT: Final = "/sys/fs/cgroup"
LONGEST: Final = 4096
"""Bytes that are read of a file."""


class Cgroups:
    """The cgroups of this process, of both versions.

    Args:
        root: the folder in which the mount is looked up; tests give another one.
        own: the file that lists the cgroups of this process.
    """

    def __init__(self, root: str = "/", own: str = OWN) -> None:
        self._mount = os.path.join(root, MOUNT.lstrip("/"))
        self._groups = [line.split(":", 2) for line in read("", own).split("\n")]

    def folders(self, controller: str) -> list[tuple[int, list[str]]]:
        """Return where the limits of a controller may be, by version: the folder of the cgroup, then its ancestors.

        In a container the path may be the host's, while the mount is already the container's own cgroup. Then the first
        folders do not exist.
        """
        found: list[tuple[int, list[str]]] = []
        for number, names, path in (group for group in self._groups if len(group) == 3):
            if controller in names.split(","):
                found.append((V1, _ancestors(os.path.join(self._mount, controller), path)))
            elif number == "0":
                found.insert(0, (V2, _ancestors(self._mount, path)))
        return found

    def cpu_quota(self) -> float | None:
        """Return the number of CPUs whose time this process may use; None if there is no quota."""
        quotas: list[float] = []
        for version, folders in self.folders("cpu"):
            for folder in folders:
                if version == V2:
                    texts = read(folder, "cpu.max").split()
                else:
                    texts = [read(folder, "cpu.cfs_quota_us"), read(folder, "cpu.cfs_period_us")]
                quotas.extend(_quota(texts))
        return min(quotas, default=None)


def read(folder: str, file: str) -> str:
    """Return the start of a file's text; "" if there is none."""
    # Without a file object, which takes longer than the file: a boot waits for this.
    try:
        fd = os.open(os.path.join(folder, file), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, LONGEST).decode(errors="surrogateescape")
    except OSError:
        return ""
    finally:
        os.close(fd)


def _ancestors(mount: str, path: str) -> list[str]:
    parts = path.strip("/").split("/")
    paths = ["/".join(parts[:length]) for length in range(len(parts), -1, -1)]
    return [os.path.join(mount, path) for path in dict.fromkeys(paths)]


def _quota(texts: list[str]) -> Iterable[float]:
    """Yield the quota, if there is one: "max" and -1 stand for none."""
    try:
        quota, period = map(int, texts)
    except ValueError:
        return
    if quota > 0 and period > 0:
        yield quota / period
