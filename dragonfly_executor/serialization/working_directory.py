"""Working directory and import path of a slot that does not see the parent's files."""

from __future__ import annotations

import os
import sys
from collections import namedtuple

from dragonfly_executor.protocol.stdlib_json import json

HOST_PATH = "DRAGONFLY_HOST_PATH"
"""Environment variable of an agent whose path is only the standard library: the host's other entries, as JSON."""


class WorkingDirectory(namedtuple("WorkingDirectory", "root cwd import_path site")):  # noqa: PYI024  # typing is slow to import
    """The locations of the parent's files on the runner.

    Attributes:
        root: the top of the tree that came from the parent; the parent names its script by a path in this tree.
        cwd: the directory in which calls run.
        import_path: the first entries of ``sys.path``.
        site: the site-packages of the environment with the pool's requirements; "" for none.
    """

    __slots__ = ()
    root: str
    cwd: str
    import_path: list[str]
    site: str

    def enter(self, path: list[str], cwd: str | None) -> None:
        """Set this process's working directory and import path. The host's own path entries come last.

        Args:
            path: the parent's import path, if this machine runs the parent's image; empty if not.
            cwd: the parent's working directory, if calls run there on such a machine.
        """
        rest = os.environ.pop(HOST_PATH, None)
        if rest is not None:
            _add_host_path(json.loads(rest))
        self.import_from(path)
        if self.site:
            self._add_site()
        if cwd is not None and os.path.isdir(cwd):
            os.chdir(cwd)
            return
        os.makedirs(self.cwd, exist_ok=True)  # a call may have removed it
        os.chdir(self.cwd)

    def import_from(self, path: list[str]) -> None:
        """Set ``sys.path`` to the synced folders, then the entries of the parent's `path` that exist here."""
        # Not the agent's own entries: a module that only the agent can import could not be imported in the parent.
        there = [entry for entry in path if os.path.exists(entry)] or sys.path
        own = [entry for entry in there if entry not in self.import_path]
        sys.path[:] = [*self.import_path, *own]

    def _add_site(self) -> None:
        import site

        before = list(sys.path)
        # addsitedir also adds the entries of the packages' .pth files. It appends, but these entries must precede the
        # host's.
        site.addsitedir(self.site)
        added = [entry for entry in sys.path if entry not in before]
        first = len(self.import_path)
        sys.path[:] = [*before[:first], *added, *before[first:]]


def _add_host_path(rest: list[str]) -> None:
    """Make PYTHONPATH, the user's site-packages and `rest` importable, as for any Python on this host."""
    archive, *library = sys.path
    named = [os.path.abspath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:] = [archive, *named, *library]
    folder = _user_site()
    if folder:
        import site

        site.addsitedir(folder)
    sys.path.extend(entry for entry in rest if entry not in sys.path)


def _user_site() -> str:
    """Return the folder of the user's own packages, or "" if a Python here does not import from it."""
    is_own = os.getuid() == os.geteuid() and os.getgid() == os.getegid()
    if not is_own or os.environ.get("PYTHONNOUSERSITE") or sys.prefix != sys.base_prefix:
        return ""  # a virtual environment leaves it out
    import site

    folder = site.getusersitepackages()
    return folder if os.path.isdir(folder) else ""
