"""Finds the CPUs, the GPUs and the memory that a runner may use."""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import ceil

from dragonfly_executor.protocol.versions import usable_cpus
from dragonfly_executor.runner.cgroups import Cgroups
from dragonfly_executor.runner.gpus import count_gpus, find_gpus
from dragonfly_executor.runner.oom_kills import MemoryWatch

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


def granted_cpus(cgroups: Cgroups) -> float:
    """Return the number of CPUs whose time this process may use, by its affinity and the quotas of its cgroups."""
    seen, quota = usable_cpus(), cgroups.cpu_quota()
    return float(seen) if quota is None else min(float(seen), quota)


def default_slots() -> int:
    """Return the number of slots for the CPUs of this machine, at least 1."""
    return slots_for(granted_cpus(Cgroups()))


def slots_for(cpus: float) -> int:
    """Return the number of slots that use this many CPUs, at least 1. A part of a CPU counts as a whole one."""
    return max(1, ceil(cpus))


def total_memory() -> int:
    """Return the bytes of memory of this machine; 0 if unknown."""
    try:
        return max(0, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError):
        return 0
