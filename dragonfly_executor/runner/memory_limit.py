"""The limit of the memory that one call may use in its slot."""

from __future__ import annotations

import sys

from dragonfly_executor.runner.cgroups import OWN, read
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from dragonfly_executor.runner.slot_cgroup import SlotCgroup

STATM: Final = "/proc/self/statm"
"""A file of Linux: its first number is the size of this process's address space in pages (man 5 proc)."""


def find_cgroup() -> SlotCgroup | None:
    """Return this slot's cgroup; None if the agent has made no cgroups."""
    if "/dragonfly-" not in read("", OWN):
        return None
    # Imported here, because most runners have no such cgroup.
    from dragonfly_executor.runner.cgroup_files import CgroupFiles
    from dragonfly_executor.runner.slot_cgroup import SlotCgroup

    return SlotCgroup.find(CgroupFiles())


class MemoryLimit:
    """The limit of a call that requires memory: it may use that much more while it runs.

    If the slot has a cgroup, all processes of the call together have the limit, and the kernel kills them if they use
    more. Otherwise the address space may grow by that much: the kernel refuses more memory, and Python raises a
    `MemoryError` (``RLIMIT_AS``, man 2 setrlimit). Processes that the call starts then have the same limit, each for
    itself. Only Linux has such limits: elsewhere nothing happens.

    Args:
        size: bytes.
        find: returns the slot's cgroup, or None.
    """

    def __init__(self, size: int, find: Callable[[], SlotCgroup | None] = find_cgroup) -> None:
        self._size = size
        self._find = find
        self._cgroup: SlotCgroup | None = None
        self._before: tuple[int, int] | None = None

    def begin(self) -> None:
        """Set the limit. A lower limit that the process has already stays."""
        if sys.platform != "linux":
            return
        cgroup = self._find()
        if cgroup is not None and cgroup.limit(self._size):
            self._cgroup = cgroup
            return
        import resource

        try:
            with open(STATM, "rb") as statm:
                used = int(statm.read().split()[0]) * resource.getpagesize()
        except OSError:
            return  # a machine without /proc has no such limit, and runs the call all the same
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        if soft == resource.RLIM_INFINITY or used + self._size < soft:
            self._before = soft, hard
            resource.setrlimit(resource.RLIMIT_AS, (used + self._size, hard))

    def end(self, error: BaseException | None = None) -> None:
        """Restore the limit that was there before.

        Args:
            error: the exception that the call raised, or None. A `MemoryError` gets a note that names the limit.
        """
        cgroup, self._cgroup = self._cgroup, None
        if cgroup is not None:
            cgroup.lift()
        before, self._before = self._before, None
        if before is None:
            return
        import resource

        resource.setrlimit(resource.RLIMIT_AS, before)
        if isinstance(error, MemoryError):
            error.add_note(
                f"the call requires {self._size} bytes of memory, and got no more: require more with"
                ' options(requires={"memory": ...})'
            )
