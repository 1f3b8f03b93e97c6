"""Where a slot starts that does not see the parent's files."""

from __future__ import annotations

import os
import sys
from collections import namedtuple

from dragonfly_executor.protocol.stdlib_json import json

HOST_PATH = "DRAGONFLY_HOST_PATH"
"""Environment variable of an agent that keeps the standard library alone on its path: the host's other entries."""


class Place(namedtuple("Place", "root cwd import_path site")):  # noqa: PYI024  # typing is slow to import
    """The parent's files as they lie on the runner.

    Attributes:
        root: the top of the tree that came from the parent; the parent names its script by a path in it.
        cwd: the directory in which calls run.
        import_path: what comes first on ``sys.path``.
        site: the site-packages of the environment with the pool's requirements; "" for none.
    """

    __slots__ = ()
    root: str
    cwd: str
    import_path: list[str]
    site: str

    def enter(self, path: list[str], cwd: str | None) -> None:
        """Make this process start here: directory and import path. What the host itself has comes last.

        Args:
            path: the parent's import path, where this is a machine of the same image; empty for all others.
            cwd: the parent's working directory, if calls run there in such a machine.
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
        """Import from this path of the parent's as far as it exists here, behind what came from the parent."""
        # The parent's alone: what only the agent could import, a call could not import in the parent.
        there = [entry for entry in path if os.path.exists(entry)] or sys.path
        own = [entry for entry in there if entry not in self.import_path]
        sys.path[:] = [*self.import_path, *own]

    def _add_site(self) -> None:
        import site

        before = list(sys.path)
        # With what the packages' .pth files add. It puts it all last; it has to come before what the host has.
        site.addsitedir(self.site)
        added = [entry for entry in sys.path if entry not in before]
        first = len(self.import_path)
        sys.path[:] = [*before[:first], *added, *before[first:]]


def _add_host_path(rest: list[str]) -> None:
    """Make importable what a Python on this host imports from: PYTHONPATH, the user's site-packages, and `rest`."""
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
