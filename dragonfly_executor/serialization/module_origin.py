"""Tells whether a runner finds the same file for a module as this process.

A runner has this program's ``sys.path`` and the finders of a fresh interpreter, so this module asks these. The finder
that imported the module here may not exist there: pytest's importer, a path since removed, or a finder that the program
installed.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from importlib.machinery import PathFinder

from dragonfly_executor.protocol.stdlib_json import is_stdlib
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def findable(name: str) -> bool:
    """Return True if a runner that imports this module's name executes the file that this process's module is from."""
    module = sys.modules.get(name)
    if module is None:
        return False
    if name in sys.builtin_module_names:
        return True
    spec = getattr(module, "__spec__", None)
    parent, _, _ = name.rpartition(".")
    if spec is None:
        # Extension modules create submodules without a spec. A module without spec and parent was made by hand.
        return bool(parent) and findable(parent)
    origin = getattr(spec, "origin", None)
    origin = origin if isinstance(origin, str) else None
    if name.partition(".")[0] in sys.stdlib_module_names and not (origin and os.path.isabs(origin) and is_own(origin)):
        return True
    return _found(name, parent, origin, tuple(entry for entry in sys.path if isinstance(entry, str)))


def forget_replaced() -> None:
    """Remove the user's modules from ``sys.modules`` that the changed ``sys.path`` now finds in other files.

    Runs in a slot. A program that put another folder first and reimported its module gets the new module in the slot
    too. A module without a replacement stays: if the program still uses it, it comes by value.
    """
    replaced = tuple(filter(_is_replaced, list(sys.modules)))
    for name in list(sys.modules):
        if name.partition(".")[0] in replaced:
            del sys.modules[name]


def _is_replaced(name: str) -> bool:
    if "." in name or name == __name__.partition(".")[0]:
        return False
    # Bypasses the module's own __getattr__, which may import a lazy module.
    origin = getattr(getattr(sys.modules[name], "__dict__", {}).get("__spec__"), "origin", None)
    if not isinstance(origin, str) or not os.path.isabs(origin) or not is_own(origin):
        return False
    try:
        spec = PathFinder.find_spec(name)
    except Exception:
        return False
    return spec is not None and spec.origin is not None and not _is_same(spec.origin, origin)


def is_own(file: str) -> bool:
    """Return True if a file belongs neither to the standard library nor to the interpreter's installed packages."""
    return not is_stdlib(file) and not any(part in file for part in _INSTALLED)


@lru_cache(maxsize=4096)
def _found(name: str, parent: str, origin: str | None, path: tuple[str, ...]) -> bool:  # noqa: ARG001
    """Look for a module. Cached for each ``sys.path``, because the search reads the disk."""
    locations: Any = None
    if parent:
        if not findable(parent):
            return False
        locations = getattr(sys.modules.get(parent), "__path__", None)
        if locations is None:
            return True  # its parent is not a package, but creates this submodule when imported
    asked = False
    for finder in _finders(name):
        try:
            spec = finder.find_spec(name, locations)
        except Exception:  # noqa: S112  # a finder runs third-party code
            continue
        asked = True
        if spec is not None:
            return _is_same(spec.origin, origin)
    return not asked


def _finders(name: str) -> Iterator[Any]:
    """Yield the finders that a runner has. Finders that the program itself installed are left out."""
    yield PathFinder
    for finder in list(sys.meta_path):
        if finder is PathFinder:
            continue
        home = (finder if isinstance(finder, type) else type(finder)).__module__
        file = getattr(sys.modules.get(home), "__file__", None)
        inside = home.partition(".")[0] == name.partition(".")[0]  # importing the package installs it
        if inside or (home not in ("__main__", "__mp_main__") and not (isinstance(file, str) and is_own(file))):
            yield finder


def _is_same(found: str | None, origin: str | None) -> bool:
    if found == origin:
        return True
    return found is not None and origin is not None and os.path.realpath(found) == os.path.realpath(origin)
