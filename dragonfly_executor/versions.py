"""What this end of a link is."""

from __future__ import annotations

import os
import sys

from dragonfly_executor.core.handshake import Versions
from dragonfly_executor.core.wire import PROTOCOL_VERSION

__version__ = "0.1.0"


def usable_cpus() -> int:
    """CPUs that this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def versions() -> Versions:
    """This interpreter, as a HELLO tells it."""
    return Versions(
        protocol=PROTOCOL_VERSION,
        package=__version__,
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        implementation=sys.implementation.name,
        byteorder=sys.byteorder,
        cpus=usable_cpus(),
        pid=os.getpid(),
    )
