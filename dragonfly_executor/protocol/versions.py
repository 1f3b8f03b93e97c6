"""The versions and CPUs of this end of a link."""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder

from dragonfly_executor.protocol.frames import PROTOCOL_VERSION
from dragonfly_executor.protocol.handshake import Versions
from dragonfly_executor.util.usable_cpus import usable_cpus

__version__ = "0.1.0"
PICKLERS = ("cloudpickle", "dill")


def versions() -> Versions:
    """Return the versions of this interpreter, as a HELLO carries them."""
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
    """Return the versions of this interpreter, with those of packages that take part in pickling.

    They are needed if the versions at the opposite end may differ.
    """
    found = versions()
    known = {name: package_version(name) for name in PICKLERS}
    found.packages = {name: version for name, version in known.items() if version}
    return found


def versions_like(other: Versions) -> Versions:
    """Return the versions of this interpreter, with packages if `other` has them."""
    return versions_with_packages() if other.packages else versions()


def package_version(name: str) -> str:
    """Return the version of an installed package; "" if unknown. The package is not imported: that takes long."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        return str(getattr(loaded, "__version__", ""))
    try:
        spec = PathFinder.find_spec(name)
    except Exception:  # third-party finders raise anything, and the paths that they search may be gone
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
