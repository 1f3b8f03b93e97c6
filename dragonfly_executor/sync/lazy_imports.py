"""A search for modules that code imports later, in a function for example. They are not in ``sys.modules`` yet."""

from __future__ import annotations

import os
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

from dragonfly_executor.sync import user_modules

# Match comments and strings, too, so that text in them is not taken for a statement. Each branch begins with a
# different letter, which makes the search five times as fast.
_LEXEMES = re.compile(
    r"""
    \#[^\n]*
    | \"{3}[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*\"{3} | "[^"\\\n]*(?:\\.[^"\\\n]*)*"
    | '{3}[^'\\]*(?:(?:\\.|'(?!''))[^'\\]*)*'{3} | '[^'\\\n]*(?:\\.[^'\\\n]*)*'
    | from[ \t]*(?P<base>\.*[ \t]*[.\w]*)[ \t]*\bimport\b[ \t]*(?P<names>\([^)]*\)|[^\n;\#]*)
    | import[ \t]+(?P<modules>[^\n;\#]+)
    | (?:import_module|__import__)\(\s*["'](?P<called>[.\w]*\w)["']
    """,
    re.VERBOSE | re.DOTALL,
)
_CONTINUED = re.compile(r"\\\r?\n")
_INDENT = 200  # maximum number of characters before a statement
_COMMENT = re.compile(r"#[^\n]*")
# These finders import modules themselves when they are asked.
_BUSY_FINDERS = frozenset({"_distutils_hack"})


def imported_by(source: str, package: str) -> frozenset[str]:
    """Return the full names of all modules that a source may import, anywhere in it.

    The function only scans the text. That is quick, causes no compiler warning, and leaves no compiled file as an
    import does. A name that a ``from`` statement imports may be a submodule, so it is included.

    Args:
        source: the text of a Python file.
        package: the package from which its relative imports start.
    """
    found: set[str] = set()
    source = _CONTINUED.sub(" ", source)
    for lexeme in _LEXEMES.finditer(source):
        if lexeme.lastgroup is None:
            continue
        if lexeme.lastgroup == "called":
            found.update(absolute(lexeme["called"], package))
        elif not _begins_statement(source, lexeme.start()):
            continue
        elif lexeme.lastgroup == "modules":
            found.update(_first_words(lexeme["modules"]))
        else:
            names = _COMMENT.sub("", lexeme["names"]).strip("()")
            found.update(_from("".join(lexeme["base"].split()), _first_words(names), package))
    return frozenset(found)


def _begins_statement(source: str, position: int) -> bool:
    before = source[max(0, position - _INDENT) : position].rstrip(" \t\f")
    return not before or before[-1] in "\n\r;:\ufeff"


def absolute(name: str, package: str) -> Iterator[str]:
    """Yield the full name of a module, given with leading dots. Yield nothing if the dots lead out of the package."""
    relative = name.lstrip(".")
    level = len(name) - len(relative)
    if not level:
        yield name
        return
    parts = package.split(".") if package else []
    if level <= len(parts):
        yield ".".join([*parts[: len(parts) - level + 1], *([relative] if relative else [])])


def _from(base: str, names: Iterable[str], package: str) -> Iterator[str]:
    for module in absolute(base, package):
        yield module
        yield from (f"{module}.{name}" for name in names)


def _first_words(text: str) -> list[str]:
    """Return the first word of each part of a comma-separated list, without an ``as`` clause."""
    words = (part.split(None, 1)[:1] for part in text.split(","))
    return [word[0] for word in words if word and word[0].replace(".", "").replace("_", "a").isalnum()]


class ModuleSearch:
    """A search for the user's own modules by their names. It imports nothing.

    Attributes:
        missing: top-level names that no finder knows.
    """

    def __init__(self, layout: user_modules.RemoteLayout) -> None:
        self.missing: set[str] = set()
        self._layout = layout
        self._specs: dict[str, ModuleSpec | None] = {}

    def unit(self, name: str) -> tuple[user_modules.SyncUnit, str] | None:
        """Return the unit that contains the module of this name, and the module's file.

        Returns:
            None if the module is already imported, or if it is not a file of the user's own.
        """
        if name in sys.modules or name.partition(".")[0] in user_modules.NOT_THE_USERS:
            return None
        spec = self._spec(name)
        file = None if spec is None else spec.origin
        if spec is None or file is None or not os.path.isabs(file) or not user_modules.is_own(file):
            return None
        found = user_modules.archived(spec, self._layout) or user_modules.of_module(
            name, file, self._layout, self._start
        )
        return None if found is None else (found, file)

    def _spec(self, name: str) -> ModuleSpec | None:
        if name in self._specs:
            return self._specs[name]
        self._specs[name] = None
        parent, _, _ = name.rpartition(".")
        path = self._locations(parent) if parent else None
        if parent and path is None:
            return None
        spec = self._specs[name] = user_modules.attributes(sys.modules.get(name)).get("__spec__") or _find(name, path)
        if spec is None and not parent and name not in sys.stdlib_module_names:
            self.missing.add(name)
        return spec

    def _locations(self, package: str) -> list[str] | None:
        """Return the folders of a package, if any of them is the user's own."""
        path = user_modules.attributes(sys.modules.get(package)).get("__path__")
        if path is None:
            spec = self._spec(package)
            path = None if spec is None else spec.submodule_search_locations
        try:
            folders = [os.path.abspath(folder) for folder in path or ()]
        except Exception:  # a namespace package's path calls the user's finders
            return None
        return folders if any(user_modules.is_own(f"{folder}/") for folder in folders) else None

    def _start(self, package: str) -> str | None:
        """Return the file of a package; None for a namespace package or a module."""
        spec = self._spec(package)
        is_package = spec is not None and spec.submodule_search_locations is not None
        return spec.origin if spec is not None and is_package else None


def _find(name: str, path: list[str] | None) -> ModuleSpec | None:
    # Ask PathFinder first: it finds nearly all modules, and has no side effect.
    finders: list[Any] = [PathFinder]
    if name.partition(".")[0] not in sys.stdlib_module_names:
        others = (finder for finder in sys.meta_path if finder is not PathFinder)
        finders += [finder for finder in others if type(finder).__module__ not in _BUSY_FINDERS]
    for finder in finders:
        try:
            spec: ModuleSpec | None = finder.find_spec(name, path)
        except Exception:  # noqa: S112  # a finder may be third-party code
            continue
        if spec is not None:
            return spec
    return None


class ImportTracker:
    """A tracker of imports from file to file, for one scan.

    Args:
        layout: the places of folders on a runner.
        known: a cache of the names that files import, by path on the runner and digest. It is filled.

    Attributes:
        missing: top-level names that no finder knows.
    """

    def __init__(self, layout: user_modules.RemoteLayout, known: dict[tuple[str, str], frozenset[str]]) -> None:
        self._search = ModuleSearch(layout)
        self.missing = self._search.missing
        self._known = known
        self._asked: set[str] = set()

    def named(self, names: Iterable[str]) -> Iterator[tuple[user_modules.SyncUnit, set[str]]]:
        """Yield the units with modules of these names, and the modules' files; each name only once."""
        for name in names:
            # Include the packages that the import runs first.
            for module in user_modules.outwards(name):
                if module not in self._asked:
                    self._asked.add(module)
                    found = self._search.unit(module)
                    if found is not None:
                        yield found[0], {found[1]}

    def file(
        self, unit: user_modules.SyncUnit, path: str, local: str, digest: str
    ) -> Iterator[tuple[user_modules.SyncUnit, set[str]]]:
        """Yield the units that a file of a unit imports from.

        Args:
            unit: the unit with which the file is sent.
            path: the file's path on a runner.
            local: the file's path on this machine.
            digest: digest of its contents.
        """
        if not local.endswith(".py") and local != unit.local:
            return
        names = self._known.get((path, digest))
        if names is None:
            inside = path[len(unit.root) + 1 :] if unit.root and path != unit.root else ""
            found = (imported_by(source, _package(inner or inside)) for inner, source in _sources(local))
            names = self._known[path, digest] = frozenset().union(*found)
        yield from self.named(names)


def _package(path: str) -> str:
    """Return the package from which relative imports start in a module at this path."""
    return path.rpartition("/")[0].replace("/", ".")


def _sources(local: str) -> Iterator[tuple[str, str]]:
    """Yield the sources in a file (one, or those in a zip file), each with its path in the zip file, or ""."""
    try:
        if local.endswith(".py"):
            with open(local, encoding="utf-8", errors="replace") as file:
                yield "", file.read()
        elif zipfile.is_zipfile(local):
            with zipfile.ZipFile(local) as archive:
                for name in archive.namelist():
                    if name.endswith(".py"):
                        yield name, archive.read(name).decode(errors="replace")
    except (OSError, zipfile.BadZipFile, RuntimeError):
        return  # the file is gone, or is not a zip file
