"""The cgroup of a slot, which limits the memory of one call and of all processes that it starts (Linux, version 2)."""

from __future__ import annotations

import os

from dragonfly_executor.runner.cgroup_files import CgroupFiles
from dragonfly_executor.runner.memory_cgroups import AGENT, PREFIX, SLOT
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

MAX: Final = "memory.max"
SWAP: Final = "memory.swap.max"
RECLAIMABLE: Final = ("inactive_file", "active_file")
"""Counters of ``memory.stat``: pages of files, which the kernel drops before it kills."""


class SlotCgroup:
    """The cgroup of this slot. Memory stays charged to the cgroup in which it was first used.

    Args:
        files: the files of cgroups.
        path: the path of the cgroup, which may have to be made.
    """

    def __init__(self, files: CgroupFiles, path: str) -> None:
        self._files = files
        self._path = path

    @classmethod
    def find(cls, files: CgroupFiles) -> SlotCgroup | None:
        """Return the cgroup of this slot; None if its agent, which is its parent process, has made none."""
        home, _, name = (files.own() or "").rpartition("/")
        agent, slot = f"{PREFIX}{os.getppid()}", f"{SLOT}{os.getpid()}"
        return cls(files, f"{home}/{agent}{slot}") if name in (agent + AGENT, agent + slot) else None

    def limit(self, size: int) -> bool:
        """Let this process, and all that it starts from now on, use `size` more bytes of memory together.

        Returns:
            False if the kernel refuses that. Then there is no limit.
        """
        try:
            self._files.make(self._path)
            # First the limit: the process must not run in the cgroup without it.
            self._files.write(self._path, MAX, str(self._kept() + size))
            self._files.write(self._path, "memory.oom.group", "1")
            self._limit_swap("0")
            self._files.write(self._path, "cgroup.procs", str(os.getpid()))
        except OSError:
            self.lift()
            return False
        return True

    def lift(self) -> None:
        """Remove the limit. The process stays in the cgroup."""
        try:
            self._files.write(self._path, MAX, "max")
            self._limit_swap("max")
        except OSError:
            return  # the call has taken away the right, or the cgroup was never made

    def _limit_swap(self, limit: str) -> None:
        # A kernel without swap has no such file.
        if self._files.has(self._path, SWAP):
            self._files.write(self._path, SWAP, limit)

    def _kept(self) -> int:
        """Return the bytes that are in use here and that the kernel cannot drop: what earlier calls have kept."""
        current = self._files.read(self._path, "memory.current").strip()
        if not current.isdecimal():
            return 0
        lines = (line.partition(" ") for line in self._files.read(self._path, "memory.stat").splitlines())
        files = sum(int(count) for name, _, count in lines if name in RECLAIMABLE)
        return max(0, int(current) - files)
