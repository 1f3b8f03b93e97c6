"""Cgroups with the memory controller of version 1 in the place of version 2, for kernels that have only that one.

Both versions charge memory, limit it and kill alike. Version 1 has no rule on processes in inner cgroups, kills one
process and not the group, and has other names.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from dragonfly_executor.runner.cgroup_files import CgroupFiles

MOUNT = "/sys/fs/cgroup/memory"
NAMES = {
    "memory.max": "memory.limit_in_bytes",
    "memory.current": "memory.usage_in_bytes",
    "memory.events": "memory.oom_control",
}
CONSTANTS = {"cgroup.controllers": "memory", "cgroup.type": "domain"}


class FirstVersion(CgroupFiles):
    """The files of version 2, played by those of version 1."""

    def __init__(self) -> None:
        super().__init__(MOUNT)

    def own(self) -> str | None:
        lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
        return next((path for _, names, path in lines if "memory" in names.split(",")), None)

    def read(self, path: str, file: str) -> str:
        return CONSTANTS[file] if file in CONSTANTS else super().read(path, NAMES.get(file, file))

    def write(self, path: str, file: str, text: str) -> None:
        if file not in ("cgroup.subtree_control", "memory.oom.group"):
            super().write(path, NAMES.get(file, file), "-1" if text == "max" else text)

    def has(self, path: str, file: str) -> bool:
        return file == "cgroup.type"

    def is_writable(self, path: str) -> bool:
        return True

    def is_delegated(self, path: str) -> bool:
        return True

    def wait_until_empty(self, path: str, timeout: float) -> None:
        """Wait as version 1 lets one: it tells nobody when a cgroup is empty."""
        end = time.monotonic() + timeout
        while self.read(path, "cgroup.procs") and time.monotonic() < end:
            os.sched_yield()
