"""Whether a runner finds the very file that a module was made from here.

A runner has this program's ``sys.path``, and the finders of an interpreter that has just started. So that is what is
asked here: what a module was imported with (pytest's own importer, a path that was put back since, a finder that the
program itself has set up) is of no use there.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from importlib.machinery import PathFinder

from dragonfly_executor.protocol.stdlib_json import is_stdlib

# Type checkers take this name for true. A runner imports this module, and has no other use for typing, which is slow.
TYPE_CHECKING = False
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
        # Extension modules make submodules of their own; what has no parent was made by hand.
        return bool(parent) and findable(parent)
    origin = getattr(spec, "origin", None)
    origin = origin if isinstance(origin, str) else None
    if name.partition(".")[0] in sys.stdlib_module_names and not (origin and os.path.isabs(origin) and is_own(origin)):
        return True
    return _found(name, parent, origin, tuple(entry for entry in sys.path if isinstance(entry, str)))


def forget_replaced() -> None:
    """In a slot whose ``sys.path`` has changed: forget the user's modules that would now come from other files.

    A program that has put another folder first, and has imported its module anew, then gets that one in the slot too.
    What nothing replaces stays: if the program still uses it, it comes by value.
    """
    replaced = tuple(filter(_is_replaced, list(sys.modules)))
    for name in list(sys.modules):
        if name.partition(".")[0] in replaced:
            del sys.modules[name]


def _is_replaced(name: str) -> bool:
    if "." in name or name == __name__.partition(".")[0]:
        return False
    # Past the module's own __getattr__: a lazy one would be imported by a look at it.
    origin = getattr(getattr(sys.modules[name], "__dict__", {}).get("__spec__"), "origin", None)
    if not isinstance(origin, str) or not os.path.isabs(origin) or not is_own(origin):
        return False
    try:
        spec = PathFinder.find_spec(name)
    except Exception:
        return False
    return spec is not None and spec.origin is not None and not _is_same(spec.origin, origin)


def is_own(file: str) -> bool:
    """Return True if a file belongs neither to the standard library nor to what is installed for the interpreter."""
    return not is_stdlib(file) and not any(part in file for part in _INSTALLED)


@lru_cache(maxsize=4096)
def _found(name: str, parent: str, origin: str | None, path: tuple[str, ...]) -> bool:  # noqa: ARG001
    """Look for a module; once for each ``sys.path``, since that takes a look at the disk."""
    locations: Any = None
    if parent:
        if not findable(parent):
            return False
        locations = getattr(sys.modules.get(parent), "__path__", None)
        if locations is None:
            return True  # in a module that is no package: whoever put it there does so on import
    asked = False
    for finder in _finders(name):
        try:
            spec = finder.find_spec(name, locations)
        except Exception:  # noqa: S112  # a finder is anybody's code
            continue
        asked = True
        if spec is not None:
            return _is_same(spec.origin, origin)
    return not asked


def _finders(name: str) -> Iterator[Any]:
    """Yield the finders that a runner has: not those that the program itself has set up."""
    yield PathFinder
    for finder in list(sys.meta_path):
        if finder is PathFinder:
            continue
        home = (finder if isinstance(finder, type) else type(finder)).__module__
        file = getattr(sys.modules.get(home), "__file__", None)
        inside = home.partition(".")[0] == name.partition(".")[0]  # its package sets it up when it is imported
        if inside or (home not in ("__main__", "__mp_main__") and not (isinstance(file, str) and is_own(file))):
            yield finder


def _is_same(found: str | None, origin: str | None) -> bool:
    if found == origin:
        return True
    return found is not None and origin is not None and os.path.realpath(found) == os.path.realpath(origin)
