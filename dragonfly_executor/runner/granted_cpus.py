"""The CPUs whose time a runner may use, and the slots for them."""

from __future__ import annotations

from math import ceil

from dragonfly_executor.runner.cgroups import Cgroups
from dragonfly_executor.util.usable_cpus import usable_cpus


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
