"""The standard library's `json`, even if the program has a module of that name.

A program's own ``json.py`` precedes the standard library on ``sys.path`` if it lies beside the script.
`concurrent.futures` works in such a program, so this package must too: json is the only module that it imports and
`concurrent.futures` does not. It takes milliseconds to import, so that happens at its first use: in a parent, while its
first runner starts.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.machinery import PathFinder

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    import json
    from types import ModuleType
    from typing import Any

__all__ = ["is_stdlib", "json"]

LIBRARY = os.path.dirname(os.__file__)
FROZEN = bool(getattr(sys, "frozen", False)) or not os.path.isdir(LIBRARY)
"""True in a frozen program. Its modules come from an archive: no other file precedes them, and their paths vary."""


def is_stdlib(path: str | None) -> bool:
    """Return whether a module with this file belongs to the standard library. Built-in modules have no file."""
    if path is None or FROZEN:
        return True
    folder = path.rpartition(os.sep)[0] + os.sep
    return folder.startswith(LIBRARY + os.sep) and f"{os.sep}site-packages{os.sep}" not in folder


def _stdlib_json() -> Any:
    loaded = sys.modules.get("json")
    spec = PathFinder.find_spec("json") if loaded is None else loaded.__spec__
    if spec is None or not is_stdlib(spec.origin):
        own = PathFinder.find_spec("json", [LIBRARY])
        if own is not None:
            return _load_beside(own)
    return import_module("json")


def _load_beside(spec: Any) -> ModuleType:
    """Load the standard library's `json` and restore `sys.modules`, in which that name is the program's own module."""
    from importlib.util import module_from_spec

    module = module_from_spec(spec)
    displaced = {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] == "json"}
    try:
        # The modules of the package import one another by name.
        sys.modules["json"] = module
        spec.loader.exec_module(module)
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "json"]:
            del sys.modules[name]
        sys.modules.update(displaced)
    return module


if not TYPE_CHECKING:

    class _LazyJson:
        def __getattr__(self, name: str) -> Any:
            value = getattr(_stdlib_json(), name)
            setattr(self, name, value)
            return value

    json = _LazyJson()
