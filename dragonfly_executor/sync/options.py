"""The user's options for file sync."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from dragonfly_executor.sync.requirements import read

if TYPE_CHECKING:
    from dragonfly_executor.sync.scan_cache import ScanCache

MIB = 1024 * 1024


class Sync:
    """The files and packages that are sent to runners which do not see this machine's files.

    Args:
        files: "auto" for the user's own code: the modules and packages that this program has imported from outside its
            site-packages and standard library, the modules that their code imports later (inside a function, say), and
            its script. A list of files and folders, relative to the working directory, adds these; folders can be
            imported from. None sends nothing.
        max_file: bytes; a larger file is not sent, and a warning names it.
        max_total: bytes; if the project is larger, it is not sent, and boots fail.
        requirements: third-party packages, as a list of lines of a requirements file, or as the path of such a file.
            They are checked here, and installed on the host, once for each list.
        check_every: seconds after a scan for changed files in which calls need no other scan; 0 scans before each call.
            If a scan is quick, the next may come sooner: after twenty times the duration of the last scan.

    Attributes:
        seen: results of earlier scans with these options, so that the next pool need not read all files again. The
            scanner owns it.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a folder is or contains the home directory, a number is negative, or a requirement is invalid or
            names a file that only this machine has.
        OSError: the requirements file cannot be read.
    """

    def __init__(
        self,
        files: str | Iterable[str | os.PathLike[str]] | None = "auto",
        *,
        max_file: int = 64 * MIB,
        max_total: int = 1024 * MIB,
        requirements: Iterable[str] | str | os.PathLike[str] | None = None,
        check_every: float = 0.2,
    ) -> None:
        self.auto = files is not None
        self.extra = () if files is None or files == "auto" else _paths(files)
        self.max_file = _size(max_file, "max_file")
        self.max_total = _size(max_total, "max_total")
        if not check_every >= 0:
            raise ValueError(f"check_every must be at least 0, not {check_every!r}")
        self.check_every = float(check_every)
        self.requirements = read(requirements)
        self.seen: ScanCache | None = None

    @classmethod
    def of(
        cls,
        sync: Sync | str | Iterable[str | os.PathLike[str]] | None,
        requirements: Iterable[str] | str | os.PathLike[str] | None,
    ) -> Sync:
        """Return the options for a backend's arguments of these names. A `Sync` is returned unchanged.

        Raises:
            TypeError: both a `Sync` and requirements are given, or see the class.
        """
        if not isinstance(sync, Sync):
            return cls(sync, requirements=requirements)
        if requirements is not None:
            raise TypeError("give the requirements to the Sync object: Sync(requirements=[...])")
        return sync

    def __repr__(self) -> str:
        # Leave out the requirements: the address of an index may hold a password.
        return f"Sync(auto={self.auto}, extra={list(self.extra)!r}, {len(self.requirements)} lines of requirements)"


def holds_home_directory(folder: str) -> bool:
    """Return whether a folder is, or contains, the home directory, which a user hardly means to send."""
    home = os.path.realpath(os.path.expanduser("~"))
    folder = os.path.realpath(folder)
    return folder in {"/", home} or home.startswith(f"{folder}/")


def _paths(files: str | Iterable[str | os.PathLike[str]]) -> tuple[str, ...]:
    if isinstance(files, (str, bytes)) or not isinstance(files, Iterable):
        raise TypeError(f'sync must be "auto", None, or a list of files and folders, not {files!r}')
    found = []
    for path in files:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"sync must hold files and folders, not {path!r}")
        absolute = os.path.abspath(os.path.expanduser(os.fspath(path)))
        if holds_home_directory(absolute):
            raise ValueError(f"sync would send all of {absolute}: name only the files and folders that calls need")
        found.append(absolute)
    return tuple(found)


def _size(value: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number of bytes, not {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be at least 0, not {value}")
    return value
