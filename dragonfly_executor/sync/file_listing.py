"""The listing of a user's folder, without the files that are never sent."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

IGNORED = frozenset({
    ".git", ".hg", ".svn", ".tox", ".nox", ".venv", "venv", ".eggs", ".mypy_cache", ".ruff_cache", ".pytest_cache",
    ".hypothesis", ".ipynb_checkpoints", ".DS_Store", "__pycache__", "node_modules",
})  # fmt: skip
"""Names that are never sent if git does not say what is ignored."""
NEVER = frozenset({".git", "__pycache__"})
GIT_TIMEOUT = 20.0
_GIT_OPTIONS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_NAMESPACE")


def listed(folder: str) -> list[str]:
    """Return the paths, relative to the folder, of the files and links in it and below.

    If git knows the folder, files that git ignores are left out. Otherwise the names in `IGNORED`, virtual environments
    and bytecode are left out. A folder that git ignores as a whole is listed as if there were no git, because the user
    asked for it.
    """
    return sorted(_by_git(folder) or _walked(folder, ""))


def _by_git(folder: str) -> list[str] | None:
    """Return the files that git tracks, or that it does not ignore; None if git cannot list the folder."""
    environment = {name: value for name, value in os.environ.items() if name not in _GIT_OPTIONS}
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    command = ["git", "-C", folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        ran = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=GIT_TIMEOUT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = []
    for line in set(os.fsdecode(ran.stdout).split("\0")):
        path = line.rstrip("/")
        if not path or NEVER.intersection(path.split("/")) or path.endswith(".pyc"):
            continue
        full = os.path.join(folder, path)
        if os.path.isdir(full) and not os.path.islink(full):
            # This is another repository inside this one: git names it and does not look into it. A submodule that was
            # not fetched has no .git.
            inner = listed(full) if os.path.exists(os.path.join(full, ".git")) else _walked(full, "")
            found += [f"{path}/{name}" for name in inner]
        elif os.path.lexists(full):
            found.append(path)
    return found


def _walked(folder: str, prefix: str) -> Iterator[str]:
    try:
        entries = list(os.scandir(os.path.join(folder, prefix)))
    except OSError:
        return  # the folder was removed, or this user may not read it
    for entry in entries:
        path = prefix + entry.name
        if entry.name in IGNORED or entry.name.endswith(".pyc"):
            continue
        if not entry.is_dir(follow_symlinks=False):
            yield path
        elif not os.path.exists(os.path.join(entry.path, "pyvenv.cfg")):
            yield from _walked(folder, f"{path}/")
