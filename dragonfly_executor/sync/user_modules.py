"""The user's own modules among the imported ones, and their places on a runner.

Nothing here imports a module, or reads an attribute that a module computes.
"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from dragonfly_executor.serialization.main_pickler import MAIN_NAMES
from dragonfly_executor.serialization.rebuild import main_module
from dragonfly_executor.serialization.script import describe

PACKAGE = __name__.partition(".")[0]
# The runner has this package already. The other modules belong to each interpreter.
NOT_THE_USERS = frozenset({PACKAGE, "sitecustomize", "usercustomize", *MAIN_NAMES})
INSTALLED = frozenset({"site-packages", "dist-packages"})


class SyncUnit(NamedTuple):
    """A file or folder that is sent as a whole.

    Attributes:
        local: its path on this machine.
        remote: its path in the tree on the runner.
        root: the folder of that tree from which it is imported; "" if it is not imported.
        order: the position of that folder on the import path.
    """

    local: str
    remote: str
    root: str
    order: int


class RemoteLayout:
    """The mapping of folders of this machine to the tree on a runner.

    Folders in the working directory keep their place in it, because calls open files by paths relative to it. Other
    folders are numbered in order of appearance.
    """

    def __init__(self, cwd: str) -> None:
        self.cwd = cwd
        self._numbers: dict[str, str] = {}

    def of(self, folder: str) -> str:
        """Return the folder's place in the tree."""
        if folder == self.cwd:
            return "cwd"
        if self.cwd != "/" and folder.startswith(self.cwd + "/"):
            return f"cwd{folder[len(self.cwd) :]}"
        return self.numbered(folder)

    def numbered(self, key: str) -> str:
        """Return a numbered place for a key that has no place of its own."""
        return self._numbers.setdefault(key, f"roots/{len(self._numbers) + 1}")


def imported(layout: RemoteLayout) -> dict[SyncUnit, set[str]]:
    """Return the user's own units that the program has imported, each with the files of its imported modules."""
    found: dict[SyncUnit, set[str]] = {}
    for name, module in list(sys.modules.items()):
        if type(name) is not str or name.partition(".")[0] in NOT_THE_USERS:
            continue
        file = _file(module)
        if file is not None and is_own(file):
            unit = archived(attributes(module).get("__spec__"), layout) or of_module(name, file, layout, _start)
            if unit is not None:
                found.setdefault(unit, set()).add(file)
    return found


def of_script(layout: RemoteLayout) -> tuple[SyncUnit, dict[str, Any]] | None:
    """Return the script as a unit, and its description with paths on the runner.

    Returns:
        None if the script has no file on this machine.
    """
    module = main_module()
    described = describe(module)
    path, name, entry = described["path"], described["name"], described["entry"]
    if path is None or not is_own(path):
        return None
    archive = archived(attributes(module).get("__spec__"), layout)
    if archive is not None:
        inner = path[len(archive.local) :]
        return archive, {**described, "path": archive.remote + inner, "entry": archive.remote}
    if not os.path.isfile(path):
        return None
    if name is not None and entry is None:
        unit = of_module(name, path, layout, _start)
        if unit is None:
            return None
        return unit, {**described, "path": unit.remote + path[len(unit.local) :]}
    root = layout.of(os.path.dirname(path))
    unit = SyncUnit(path, f"{root}/{os.path.basename(path)}", root, _order(os.path.dirname(path)))
    return unit, {**described, "path": unit.remote, "entry": None if entry is None else root}


def named(path: str, layout: RemoteLayout) -> SyncUnit:
    """Return the unit of a file or folder that the user named."""
    folder = os.path.dirname(path)
    if os.path.isdir(path):
        place = layout.of(path)
        return SyncUnit(path, place, place, _order(path))
    place = layout.of(folder)
    return SyncUnit(path, f"{place}/{os.path.basename(path)}", place if path.endswith(".py") else "", _order(folder))


def is_own(file: str) -> bool:
    """Return whether a file belongs neither to the interpreter nor to packages that are installed for it."""
    if INSTALLED.intersection(file.split("/")):
        return False
    return not any(file.startswith(folder) for folder in _installed_folders())


@lru_cache(maxsize=1)
def _installed_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")}
    folders |= {*site.getsitepackages(), site.getusersitepackages()}
    return tuple(f"{path}/" for folder in folders for path in {os.path.abspath(folder), os.path.realpath(folder)})


def attributes(module: object) -> dict[str, Any]:
    """Return a module's attributes without running any of its code."""
    # Bypass the module's own __getattr__ and __getattribute__: reading an attribute imports a lazy module.
    try:
        found = object.__getattribute__(module, "__dict__")
    except AttributeError:
        return {}
    return found if isinstance(found, dict) else {}


def _file(module: object) -> str | None:
    file = attributes(module).get("__file__")
    return os.path.abspath(file) if type(file) is str and file and not file.startswith("<") else None


def archived(spec: object, layout: RemoteLayout) -> SyncUnit | None:
    """Return the zip file that a module with this spec comes from; None if it comes from no zip file."""
    archive = getattr(getattr(spec, "loader", None), "archive", None)
    if type(archive) is not str or not os.path.isfile(archive):
        return None
    archive = os.path.abspath(archive)
    remote = f"{layout.of(os.path.dirname(archive))}/{os.path.basename(archive)}"
    return SyncUnit(archive, remote, remote, _order(archive))


def _start(package: str) -> str | None:
    """Return the file of an imported package; None for a module or a namespace package."""
    known = attributes(sys.modules.get(package))
    start = known.get("__file__")
    return start if "__path__" in known and type(start) is str else None


def of_module(name: str, file: str, layout: RemoteLayout, start_of: Callable[[str], str | None]) -> SyncUnit | None:
    """Return the outermost package around a module, or the module alone.

    Args:
        name: the module's full name.
        file: its file.
        layout: the places of folders.
        start_of: returns the file of a package by its name; None for a namespace package or any other module.
    """
    for package in outwards(name):
        start = start_of(package)
        if start is not None:
            folder = os.path.dirname(os.path.abspath(start))
            # A module that the package imports from elsewhere is not in its folder, and is sent alone.
            return _placed(package, folder, "", layout) if file.startswith(folder + "/") else None
    base = os.path.basename(file)
    suffix = base[base.index(".") :] if "." in base else ""
    if not os.path.isfile(file):
        return None
    return _placed(name, file[: len(file) - len(suffix)] if suffix else file, suffix, layout)


def _placed(name: str, path: str, suffix: str, layout: RemoteLayout) -> SyncUnit:
    """Return the unit of the module `name` at `path`, placed in the folder from which its name is imported.

    If the path does not end with the name (a package in a folder of another name), the module gets a folder of its own.
    """
    folder = path
    for part in reversed(name.split(".")):
        if os.path.basename(folder) != part:
            root = layout.numbered(f"import {name}")
            return SyncUnit(path + suffix, f"{root}/{name.replace('.', '/')}{suffix}", root, len(sys.path))
        folder = os.path.dirname(folder)
    root = layout.of(folder)
    return SyncUnit(path + suffix, f"{root}/{name.replace('.', '/')}{suffix}", root, _order(folder))


def outwards(name: str) -> Iterator[str]:
    """Return the names of the packages around a dotted name, and the name itself, outermost first."""
    parts = name.split(".")
    return (".".join(parts[: count + 1]) for count in range(len(parts)))


def _order(folder: str) -> int:
    """Return the position of a folder on ``sys.path``."""
    for number, entry in enumerate(sys.path):
        if isinstance(entry, str) and os.path.abspath(entry) == folder:
            return number
    return len(sys.path)
