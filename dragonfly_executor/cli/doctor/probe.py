"""The functions that the doctor calls on a runner. They are pickled by reference, as each runner has this package."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from typing import TypedDict


class NodeReport(TypedDict):
    """A node's report on itself. Memory and disk are in bytes; None if the system does not report them."""

    host: str
    system: str
    python: str
    executable: str
    cpus: int
    memory: int | None
    memory_free: int | None
    scratch: str
    disk_free: int


def look() -> NodeReport:
    """Return a report on the node that this runs on."""
    system = os.uname()
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    scratch = tempfile.gettempdir()
    total, free = _memory()
    return {
        "host": system.nodename,
        "system": f"{system.sysname} {system.release} {system.machine}",
        "python": sys.version.partition(" ")[0],
        "executable": sys.executable,
        "cpus": cpus,
        "memory": total,
        "memory_free": free,
        "scratch": scratch,
        "disk_free": shutil.disk_usage(scratch).free,
    }


def echo(data: bytes) -> bytes:
    """Return the data, to measure latency and bandwidth."""
    return data


def _memory() -> tuple[int | None, int | None]:
    """Return total and available memory in bytes."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            pairs = (line.split(":") for line in lines)
            sizes = {name: int(rest.split()[0]) * 1024 for name, rest in pairs}
        return sizes.get("MemTotal"), sizes.get("MemAvailable")
    except (OSError, ValueError, IndexError):
        pass  # not Linux
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), None
    except (OSError, ValueError):
        return None, None
