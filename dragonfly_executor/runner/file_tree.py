"""A tree of files on the runner's host, changed step by step to be what a manifest says.

The slots' code may have put anything there, links too. So each step walks from the tree's top with descriptors, through
directories only: whatever stands where the manifest has a directory and is none is taken away, never followed.
"""

from __future__ import annotations

import os
import stat

from dragonfly_executor.protocol.file_manifest import DIRECTORY, LINK, Difference, Entry, merged
from dragonfly_executor.runner.session_directory import remove_tree

# A runner imports this, and importing typing would take as long as all the rest. Type checkers take the name for true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dragonfly_executor.runner.content_cache import Blobs

_ONLY_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Tree:
    """The tree below `top`.

    Attributes:
        top: its uppermost directory, which exists.
        manifest: what lies there, as far as it came from the parent.
    """

    def __init__(self, top: str, blobs: Blobs) -> None:
        self.top = top
        self.manifest: Mapping[str, Entry] = {}
        self._blobs = blobs

    def after(self, difference: Difference) -> dict[str, Entry]:
        """What the manifest will be; `ProtocolError` if that is no tree."""
        return merged(self.manifest, difference)

    def apply(self, difference: Difference, stale: list[str]) -> Iterator[None]:
        """Make the change, one entry at a step. Files whose contents are not there (any more) are added to `stale`.

        Raises:
            OSError: the disk is full, or something else of that kind.
        """
        manifest = self.after(difference)
        for path in difference.deleted:
            self._delete(path)
            yield
        for path, entry in difference.changed.items():
            if not self._put(path, entry):
                stale.append(path)
            yield
        for path in stale:
            manifest.pop(path, None)
        self.manifest = manifest

    def _delete(self, path: str) -> None:
        folder = self._find_above(path)
        if folder is None:
            return
        name = os.path.basename(path)
        try:
            _forget_bytecode(folder, name)
            try:
                os.unlink(name, dir_fd=folder)
            except (IsADirectoryError, PermissionError):  # Linux says the first, POSIX the second
                _remove_directory(folder, name)
            except (FileNotFoundError, NotADirectoryError):
                return
        finally:
            os.close(folder)

    def _put(self, path: str, entry: Entry) -> bool:
        folder = self._make_above(path)
        name = os.path.basename(path)
        try:
            if entry.kind == DIRECTORY:
                fd = _make_directory(folder, name)
                os.fchmod(fd, entry.mode)
                os.close(fd)
                return True
            before = _status(folder, name)
            if before is not None and stat.S_ISDIR(before.st_mode):
                remove_tree(os.path.join(self.top, path))
            new = f".dragonfly-{os.urandom(6).hex()}"
            if entry.kind == LINK:
                os.symlink(entry.target, new, dir_fd=folder)
            elif not self._write(folder, new, entry, before):
                return False
            os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
            _forget_bytecode(folder, name)
            return True
        finally:
            os.close(folder)

    def _write(self, folder: int, name: str, entry: Entry, before: os.stat_result | None) -> bool:
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=folder)
        try:
            whole = self._blobs.copy(entry.digest, entry.size, fd)
            os.fchmod(fd, entry.mode)
            # Bytecode is taken for that of a source with the same size, written in the same second.
            if before is not None and os.fstat(fd).st_mtime < int(before.st_mtime) + 1:
                os.utime(fd, (before.st_mtime + 1, before.st_mtime + 1))
        except BaseException:
            os.unlink(name, dir_fd=folder)
            raise
        finally:
            os.close(fd)
        if not whole:
            os.unlink(name, dir_fd=folder)
        return whole

    def _find_above(self, path: str) -> int | None:
        """The directory in which `path` lies, open; None where there is none."""
        fd = os.open(self.top, _ONLY_DIRECTORY)
        for part in path.split("/")[:-1]:
            above = fd
            try:
                fd = os.open(part, _ONLY_DIRECTORY, dir_fd=above)
            except OSError:
                return None
            finally:
                os.close(above)
        return fd

    def _make_above(self, path: str) -> int:
        """The same, but made where it is missing."""
        fd = os.open(self.top, _ONLY_DIRECTORY)
        for part in path.split("/")[:-1]:
            above = fd
            try:
                fd = _make_directory(above, part)
            finally:
                os.close(above)
        return fd


def _make_directory(folder: int, name: str) -> int:
    """A directory in a directory, open. It takes the place of whatever else has this name."""
    status = _status(folder, name)
    if status is None or not stat.S_ISDIR(status.st_mode):
        if status is not None:
            os.unlink(name, dir_fd=folder)
        os.mkdir(name, 0o700, dir_fd=folder)
    elif status.st_mode & 0o700 != 0o700:
        os.chmod(name, 0o700, dir_fd=folder)
    return os.open(name, _ONLY_DIRECTORY, dir_fd=folder)


def _status(folder: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _remove_directory(folder: int, name: str) -> None:
    """Remove a directory, with the bytecode in it; one in which calls have put something of their own stays."""
    try:
        inside = os.open(name, _ONLY_DIRECTORY, dir_fd=folder)
    except OSError:
        return
    try:
        if os.listdir(inside) == ["__pycache__"]:
            _forget_all_bytecode(inside)
    finally:
        os.close(inside)
    try:
        os.rmdir(name, dir_fd=folder)
    except OSError:
        return


def _forget_bytecode(folder: int, name: str) -> None:
    """Remove what was compiled from a source that changes or goes."""
    if name.endswith(".py"):
        _forget_all_bytecode(folder, name[:-2])


def _forget_all_bytecode(folder: int, prefix: str = "") -> None:
    try:
        cache = os.open("__pycache__", _ONLY_DIRECTORY, dir_fd=folder)
    except OSError:
        return
    try:
        for compiled in os.listdir(cache):
            # While it is being written it has a number behind its name.
            is_bytecode = compiled.startswith(prefix) and (not prefix or ".pyc" in compiled)
            if is_bytecode and not _is_directory(cache, compiled):
                os.unlink(compiled, dir_fd=cache)
    except FileNotFoundError:
        pass  # a slot replaced it an instant ago
    finally:
        os.close(cache)
    if not prefix:
        try:
            os.rmdir("__pycache__", dir_fd=folder)
        except OSError:
            return


def _is_directory(folder: int, name: str) -> bool:
    status = _status(folder, name)
    return status is not None and stat.S_ISDIR(status.st_mode)
