"""Finds the CPUs, the GPUs and the memory that a runner may use."""

from __future__ import annotations

import os
from collections.abc import Mapping

from dragonfly_executor.runner.cgroups import Cgroups
from dragonfly_executor.runner.gpus import count_gpus, find_gpus
from dragonfly_executor.runner.granted_cpus import granted_cpus
from dragonfly_executor.runner.oom_kills import MemoryWatch
from dragonfly_executor.util.usable_cpus import usable_cpus

FALLBACK_MEMORY = 8 * 1024**3
"""Bytes of memory that the machine is taken to have if that is unknown."""


class RunnerMachine:
    """The part of the machine that this process may use.

    Args:
        environment: the variables that name GPUs.

    Attributes:
        cpus: number of CPUs, by the affinity and the quotas of the cgroups.
        seen_cpus: number of CPUs that libraries see, which know of no quota.
        gpus: GPUs by variable; see `find_gpus`.
        memory: bytes of memory, by the machine and the limits of the cgroups.
        memory_watch: counts kills by the OOM killer.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        cgroups = Cgroups()
        self.seen_cpus = usable_cpus()
        self.cpus = granted_cpus(cgroups)
        self.memory_watch = MemoryWatch(cgroups)
        self.memory = min(total_memory(), self.memory_watch.limit() or total_memory())
        self.gpus = find_gpus(environment)

    @property
    def capacity(self) -> tuple[float, int, int]:
        """Return the number of CPUs, the number of GPUs, and the bytes of memory, as HELLO carries them."""
        return self.cpus, count_gpus(self.gpus), self.memory


def total_memory() -> int:
    """Return the bytes of memory of this machine; 0 if unknown."""
    try:
        return max(0, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError):
        return 0
