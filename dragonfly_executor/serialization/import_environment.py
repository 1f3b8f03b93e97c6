"""Modules and import path of the parent's process that calls rely on implicitly."""

from __future__ import annotations

import os
import sys

from dragonfly_executor.serialization.formats import MARKS
from dragonfly_executor.serialization.main_pickler import MAIN_NAMES, OBJECT_MARK, OBJECT_MODULES, importable
from dragonfly_executor.serialization.module_origin import is_own
from dragonfly_executor.util import plain_pickle as pickle
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

_OWN = __name__.partition(".")[0] + "."
_LONGEST = 255
"""Longest name in bytes that pickle writes with its short opcode."""


class ImportEnvironment:
    """Modules that runners do not find, and changes of ``sys.path``. Any thread, at any time.

    Args:
        path_travels: True if slots have this program's ``sys.path``, so that calls bring along its changes.

    Attributes:
        marks: bytes that must not occur in a call that is encoded by plain pickle alone: the
            bytes of references to ``__main__``, and to each module that runners do not find.
        plain_marks: `marks`, and what a pickle has that refers to one of multiprocessing's objects.
        importable: the modules that calls may refer to by name, as far as the codec has found out. It adds them.
        path: the pickled ``sys.path`` if it has changed since slots were set up; b"" if not.
    """

    def __init__(self, *, path_travels: bool) -> None:
        self.marks: tuple[bytes, ...] = MARKS
        self.plain_marks: tuple[bytes, ...] = MARKS
        self.importable: set[str | None] = set()
        self.path = b""
        self._path_travels = path_travels
        self._modules = -1
        self._path: list[Any] = []
        self._told: list[str] | None = None
        self._judged: set[str] = set()
        self._found: list[bytes] = []

    def told(self, path: list[str]) -> None:
        """Record the path that slots are set up with."""
        self._told = path
        self._modules = -1

    def refresh(self) -> bool:
        """Look again if modules were imported or ``sys.path`` was changed since the last call. Return True if so."""
        if len(sys.modules) == self._modules and sys.path == self._path:
            return False
        self._look()
        return True

    def _look(self) -> None:
        modules, path = dict(sys.modules), list(sys.path)
        if path != self._path:
            self._judged, self._found = set(), []
        new = modules.keys() - self._judged
        found = [
            b"\x8c%c%s" % (len(name), name)
            for name in map(str.encode, filter(_is_unfindable, new))
            if len(name) <= _LONGEST
        ]
        self._found = [*self._found, *found]
        self._judged = self._judged | new
        self.importable.clear()
        self.marks = self.plain_marks = (*MARKS, *self._found)
        if not OBJECT_MODULES.isdisjoint(modules):
            # Plain pickle takes some of these objects, and leaves out what makes them work.
            self.plain_marks = (*self.marks, OBJECT_MARK)
        if self._path_travels and self._told is not None:
            written = path_from(directory())
            if self.path or written != self._told:  # a slot may have received another path since
                self.path = pickle.dumps(written, 5)
        self._modules, self._path = len(modules), path


def _is_unfindable(name: Any) -> bool:
    """Return True if runners do not find a module.

    Installed modules count as found, because there are many of them. So does this package.
    """
    if type(name) is not str or name in MAIN_NAMES or name.startswith(_OWN):
        return False
    origin = getattr(getattr(sys.modules.get(name), "__spec__", None), "origin", None)
    if isinstance(origin, str) and os.path.isabs(origin) and not is_own(origin):
        return False
    return not importable(name)


def directory() -> str:
    """Return the working directory; "/" if it was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"  # the directory was removed while the program ran


def path_from(cwd: str) -> list[str]:
    """Return ``sys.path`` with relative entries made absolute, for use in another process."""
    return [os.path.join(cwd, entry) if entry else cwd for entry in sys.path if isinstance(entry, str)]
