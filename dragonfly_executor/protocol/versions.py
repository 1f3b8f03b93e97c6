"""What this end of a link is."""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder

from dragonfly_executor.protocol.frames import PROTOCOL_VERSION
from dragonfly_executor.protocol.handshake import Versions

__version__ = "0.1.0"
PICKLERS = ("cloudpickle", "dill")


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
        release=sys.version.split()[0],
    )


def versions_with_packages() -> Versions:
    """The same, with the versions of what has a part in pickling: where the other end's may be others."""
    found = versions()
    known = {name: package_version(name) for name in PICKLERS}
    found.packages = {name: version for name, version in known.items() if version}
    return found


def versions_beside(other: Versions) -> Versions:
    """As much of this interpreter as the other end says of itself."""
    return versions_with_packages() if other.packages else versions()


def package_version(name: str) -> str:
    """The version of a package that is installed here; "" where nobody knows. It is not imported: that takes long."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        return str(getattr(loaded, "__version__", ""))
    try:
        spec = PathFinder.find_spec(name)
    except Exception:  # finders may be anybody's, and what they look into may have gone
        return ""
    if spec is None:
        return ""
    read = getattr(spec.loader, "get_data", None)
    places = spec.submodule_search_locations or () if read is not None else ()
    for path in (f"{place}{os.sep}{file}" for place in places for file in ("__init__.py", "__info__.py")):
        try:
            lines = read(path).splitlines() if read is not None else []
        except (OSError, ImportError):
            continue
        for variable, _, value in (line.partition(b"=") for line in lines):
            if variable.strip() == b"__version__":
                return str(value.strip().strip(b"\"'"), "ascii", "replace")
    return ""
