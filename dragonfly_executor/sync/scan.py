"""The scanner of the parent's files, which builds the manifest of the tree that a runner must have.

A scan of unchanged files only asks the kernel for their status. The scanner reads contents and lists folders only if
the status has changed, or is so recent that a change might not show in it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import sys
import tempfile
from collections import deque
from collections.abc import Collection, Iterable
from typing import NamedTuple

from dragonfly_executor.protocol.file_manifest import (
    FILE,
    MAX_ENTRIES,
    ManifestEntry,
    directory_entry,
    file_entry,
    link_entry,
)
from dragonfly_executor.sync import lazy_imports, user_modules
from dragonfly_executor.sync.file_listing import listed
from dragonfly_executor.sync.options import MIB, Sync, holds_home_directory
from dragonfly_executor.sync.scan_cache import PathState, ScanCache, Status

logger = logging.getLogger("dragonfly_executor")
YOUNG = 1_000_000_000
"""Age in nanoseconds up to which a changed file may change again without a change of its status."""
LARGEST = 3
MOST_NAMED = 10
"""Maximum number of files that a warning names."""
READ_AGAIN = 3


class Snapshot(NamedTuple):
    """The files that runners must have.

    Attributes:
        manifest: the tree.
        sources: the path on this machine of each file of the tree.
        import_path: the import path of slots, as paths in the tree.
    """

    manifest: dict[str, ManifestEntry]
    sources: dict[str, str]
    import_path: list[str]


class SyncRefused(Exception):
    """The project is too large to be sent."""


class Scanner:
    """A scanner of this machine's files. One thread at a time may use it.

    Attributes:
        script: the description of the script at its place on a runner; None if the script is not sent.
    """

    def __init__(self, plan: Sync) -> None:
        self._plan = plan
        try:
            cwd = os.getcwd()
        except FileNotFoundError:
            cwd = "/"  # the directory was removed while the program runs in it
        self._layout = user_modules.RemoteLayout(cwd)
        script = user_modules.of_script(self._layout) if plan.auto else None
        if script is not None and not self._may_travel(script[0].local):
            script = None
        self._script = None if script is None else script[0]
        self.script = None if script is None else script[1]
        seen = plan.seen if plan.seen is not None and plan.seen.cwd == cwd else ScanCache(cwd, {}, {}, {}, {})
        # Copy the results: the pool that found them may still exist and find more.
        self._files, self._folders, self._listed = dict(seen.files), dict(seen.folders), dict(seen.listed)
        self._imports = dict(seen.imports)
        self._missing: frozenset[str] = frozenset()
        self._later: frozenset[str] = frozenset()
        self._warned: set[str] = set()
        self._too_large: dict[str, int] = {}
        self._last: Snapshot | None = None
        self._now = 0
        self._modules: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self._imported: dict[user_modules.SyncUnit, set[str]] = {}
        self._last_units: dict[user_modules.SyncUnit, set[str]] = {}

    def scan(self, doubted: Collection[str] = (), later: frozenset[str] = frozenset()) -> Snapshot:
        """Return the current tree: the same object as last time if nothing has changed.

        Args:
            doubted: files of this machine whose contents are read again, even if their status is unchanged.
            later: names of modules that are imported by code which is sent by value.

        Raises:
            SyncRefused: the tree is larger than allowed.
        """
        for path in doubted:
            self._files.pop(path, None)
        found = self._units()
        same = self._last is not None and not doubted and found == self._last_units and later == self._later
        if self._last is not None and same and self._unchanged():
            return self._last
        self._now = _file_clock()
        snapshot = self._build(found, later)
        self._plan.seen = ScanCache(self._layout.cwd, self._files, self._folders, self._listed, self._imports)
        self._last_units, self._later = found, later
        if self._last is None or snapshot != self._last:
            self._last = snapshot
        return self._last

    def _may_travel(self, path: str) -> bool:
        try:
            return os.path.getsize(path) <= self._plan.max_file
        except OSError:
            return False

    def _is_settled(self, status: Status | None) -> bool:
        """Return whether a further change will show in the status.

        It will not show if the clock of files has hardly advanced since the last change.
        """
        return status is None or abs(self._now - max(status[0], status[1])) > YOUNG

    def _units(self) -> dict[user_modules.SyncUnit, set[str]]:
        if not self._plan.auto:
            return {}
        modules = tuple(sys.modules), tuple(sys.path)
        if modules != self._modules:
            self._modules, self._imported = modules, user_modules.imported(self._layout)
        found = dict(self._imported)
        if self._script is not None:
            found.setdefault(self._script, set())
        for path in self._plan.extra:
            found.setdefault(user_modules.named(path, self._layout), set())
        return found

    def _unchanged(self) -> bool:
        for known, follow in ((self._files, False), (self._folders, True)):
            if any(not was.settled or _status(path, follow=follow) != was.status for path, was in known.items()):
                return False
        search = lazy_imports.ModuleSearch(self._layout)
        return not any(search.unit(name) for name in self._missing)

    # -- the tree -----------------------------------------------------------------------------------------------------

    def _build(self, found: dict[user_modules.SyncUnit, set[str]], later: frozenset[str]) -> Snapshot:
        manifest: dict[str, ManifestEntry] = {"cwd": directory_entry()}
        sources: dict[str, str] = {}
        visited: set[str] = set()
        roots: set[tuple[int, str]] = set()
        follower = lazy_imports.ImportTracker(self._layout, self._imports)
        waiting = deque([*found.items(), *(follower.named(later) if self._plan.auto else ())])
        while waiting:
            unit, modules = waiting.popleft()
            if unit.root:
                roots.add((unit.order, unit.root))
            if modules and modules <= visited:
                continue
            for path, local in self._contents(unit, modules):
                if path in manifest:
                    continue
                visited.add(local)
                entry = self._entry(local)
                if entry is not None:
                    _add_above(manifest, path)
                    manifest[path] = entry
                    sources[path] = local
                    if self._plan.auto and entry.kind == FILE:
                        waiting.extend(follower.file(unit, path, local, entry.digest))
        self._missing = frozenset(follower.missing)
        self._files = {path: known for path, known in self._files.items() if path in visited}
        self._warn_of_large_files()
        self._refuse_too_much(manifest)
        for _, root in sorted(roots):
            # An empty folder can be imported from, too; a zip file is there already.
            _add_above(manifest, f"{root}/")
        return Snapshot(manifest, sources, list(dict.fromkeys(root for _, root in sorted(roots))))

    def _contents(self, unit: user_modules.SyncUnit, modules: Iterable[str]) -> Iterable[tuple[str, str]]:
        """Return path in the tree and path on this machine, for each file of a unit."""
        if not os.path.isdir(unit.local):
            return [(unit.remote, unit.local)]
        if holds_home_directory(unit.local):
            self._warn(unit.local, "is or contains the home directory, so it is not sent to runners")
            return []
        names = dict.fromkeys(self._list(unit.local))
        # Include imported modules even if git ignores them, for example the output of a build.
        names.update(dict.fromkeys(module[len(unit.local) + 1 :] for module in modules))
        return [(f"{unit.remote}/{name}", f"{unit.local}/{name}") for name in names]

    def _list(self, folder: str) -> list[str]:
        """Return the files in a folder and below. They are listed anew only if one of its folders has changed."""
        names = self._listed.get(folder)
        if names is not None and all(
            known is not None and known.settled and _status(path, follow=True) == known.status
            for path in _folders_of(folder, names)
            for known in (self._folders.get(path),)
        ):
            return names
        names = self._listed[folder] = listed(folder)
        self._folders = {path: known for path, known in self._folders.items() if not path.startswith(f"{folder}/")}
        for path in _folders_of(folder, names):
            # An entry that was added after the listing has made the folder's status too young to be settled.
            status = _status(path, follow=True)
            self._folders[path] = PathState(status, self._is_settled(status), None)
        return names

    def _entry(self, local: str) -> ManifestEntry | None:
        """Return the entry of a file or link; None if it is not sent."""
        status = _status(local, follow=False)
        known = self._files.get(local)
        if known is not None and known.settled and known.status == status:
            return known.entry
        entry: ManifestEntry | None = None
        for _ in range(READ_AGAIN):
            entry = self._read(local)
            after = _status(local, follow=False)
            if after == status:
                break
            status = after
        self._files[local] = PathState(status, self._is_settled(status), entry)
        return entry

    def _read(self, local: str) -> ManifestEntry | None:
        try:
            status = os.lstat(local)
            if stat.S_ISLNK(status.st_mode):
                target = self._inside(local, os.readlink(local))
                if target is not None:
                    return link_entry(target)
                if not os.path.isfile(local):
                    return link_entry(os.readlink(local))
                status = os.stat(local)  # the target is not sent itself, so send its contents
            if not stat.S_ISREG(status.st_mode):
                return None  # a socket, a pipe, a device
            if status.st_size > self._plan.max_file:
                self._too_large.setdefault(local, status.st_size)
                return None
            with open(local, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                return file_entry(digest, os.fstat(file.fileno()).st_size, status.st_mode)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(local, f"cannot be read, so it is not sent to runners: {error.strerror}")
            return None

    def _inside(self, local: str, target: str) -> str | None:
        """Return the target of a link, relative to the link, if the target is in the same unit; otherwise None."""
        above = os.path.dirname(local)
        leads_to = os.path.normpath(os.path.join(above, target))
        for folder in self._listed:
            if local.startswith(f"{folder}/") and (leads_to == folder or leads_to.startswith(f"{folder}/")):
                return os.path.relpath(leads_to, above)
        return None

    def _refuse_too_much(self, manifest: dict[str, ManifestEntry]) -> None:
        total = sum(entry.size for entry in manifest.values())
        if total <= self._plan.max_total and len(manifest) <= MAX_ENTRIES:
            return
        largest = sorted(manifest, key=lambda path: manifest[path].size, reverse=True)[:LARGEST]
        shown = ", ".join(f"{path} ({manifest[path].size / MIB:.1f} MiB)" for path in largest)
        raise SyncRefused(
            f"{len(manifest)} files of {total / MIB:.1f} MiB together would be sent to runners, and max_total is "
            f"{self._plan.max_total / MIB:.1f} MiB; the largest are {shown}. Have git ignore what calls do not need"
        )

    def _warn_of_large_files(self) -> None:
        new = [path for path in self._too_large if path not in self._warned]
        self._warned.update(new)
        if new:
            shown = ", ".join(f"{path} ({self._too_large[path] / MIB:.1f} MiB)" for path in new[:MOST_NAMED])
            more = f", and {len(new) - MOST_NAMED} more" if len(new) > MOST_NAMED else ""
            limit = f"max_file is {self._plan.max_file / MIB:.1f} MiB"
            logger.warning("not sent to runners, since %s: %s%s", limit, shown, more)

    def _warn(self, path: str, text: str) -> None:
        if path not in self._warned:
            self._warned.add(path)
            logger.warning("%s %s", path, text)


def _add_above(manifest: dict[str, ManifestEntry], path: str) -> None:
    """Add the folders above a path to the manifest."""
    above = path.rpartition("/")[0]
    while above and above not in manifest:
        manifest[above] = directory_entry()
        above = above.rpartition("/")[0]


def _folders_of(folder: str, names: Iterable[str]) -> set[str]:
    """Return the folder, and all folders below it that contain files."""
    found = {folder}
    for name in names:
        above = name.rpartition("/")[0]
        while above and f"{folder}/{above}" not in found:
            found.add(f"{folder}/{above}")
            above = above.rpartition("/")[0]
    return found


def _status(path: str, *, follow: bool) -> Status | None:
    """Return the values that show whether a path is unchanged. For a link they include those of its target."""
    try:
        found = os.stat(path, follow_symlinks=follow)
    except OSError:
        return None
    status = found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_mode
    if not stat.S_ISLNK(found.st_mode):
        return status
    beyond = _status(path, follow=True)
    # Put the younger of both times first: they decide whether a further change will show.
    return status if beyond is None else (max(status[0], beyond[0]), max(status[1], beyond[1]), *status, *beyond)


def _file_clock() -> int:
    """Return the time in nanoseconds on the clock that stamps files.

    Times of files must not be compared with other clocks.
    """
    with tempfile.TemporaryFile() as file:
        return os.fstat(file.fileno()).st_mtime_ns
