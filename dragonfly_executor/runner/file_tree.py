"""A tree of files on the runner's host, changed step by step to match a manifest.

User code in the slots may have created any file there, symbolic links included. So each step walks from the tree's top
by descriptors, and enters only directories. If another file stands where the manifest has a directory, it is removed,
never followed.
"""

from __future__ import annotations

import os
import stat

from dragonfly_executor.protocol.file_manifest import DIRECTORY, LINK, ManifestEntry, TreeDifference, merged
from dragonfly_executor.runner.session_directory import remove_tree
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dragonfly_executor.runner.content_cache import ContentCache

_ONLY_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class FileTree:
    """The tree below `top`.

    Attributes:
        top: its root directory, which exists.
        manifest: the entries that came from the parent and are in place.
    """

    def __init__(self, top: str, blobs: ContentCache) -> None:
        self.top = top
        self.manifest: Mapping[str, ManifestEntry] = {}
        self._blobs = blobs

    def after(self, difference: TreeDifference) -> dict[str, ManifestEntry]:
        """Return the manifest after this change.

        Raises:
            ProtocolError: the result is not a valid tree.
        """
        return merged(self.manifest, difference)

    def apply(self, difference: TreeDifference, stale: list[str]) -> Iterator[None]:
        """Apply the change, one entry at each step of the iterator.

        Args:
            difference: the change.
            stale: receives the paths of files whose contents are not (or no longer) in the cache.

        Raises:
            OSError: an operation failed, for example because the disk is full.
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
            except (IsADirectoryError, PermissionError):  # Linux raises the first, POSIX prescribes the second
                _remove_directory(folder, name)
            except (FileNotFoundError, NotADirectoryError):
                return
        finally:
            os.close(folder)

    def _put(self, path: str, entry: ManifestEntry) -> bool:
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

    def _write(self, folder: int, name: str, entry: ManifestEntry, before: os.stat_result | None) -> bool:
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=folder)
        try:
            whole = self._blobs.copy(entry.digest, entry.size, fd)
            os.fchmod(fd, entry.mode)
            # Bytecode counts as current if its source has the same size and the same mtime in seconds.
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
        """Open the directory that contains `path`. Return None if there is none."""
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
        """Open the directory that contains `path`, and make missing directories."""
        fd = os.open(self.top, _ONLY_DIRECTORY)
        for part in path.split("/")[:-1]:
            above = fd
            try:
                fd = _make_directory(above, part)
            finally:
                os.close(above)
        return fd


def _make_directory(folder: int, name: str) -> int:
    """Open a subdirectory. Make it if it is missing, and remove any other file of this name first."""
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
    """Remove a directory and the bytecode in it. A directory that holds other files, made by calls, stays."""
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
    """Remove the bytecode of a source that is changed or removed."""
    if name.endswith(".py"):
        _forget_all_bytecode(folder, name[:-2])


def _forget_all_bytecode(folder: int, prefix: str = "") -> None:
    try:
        cache = os.open("__pycache__", _ONLY_DIRECTORY, dir_fd=folder)
    except OSError:
        return
    try:
        for compiled in os.listdir(cache):
            # While bytecode is being written, its name has a number as suffix.
            is_bytecode = compiled.startswith(prefix) and (not prefix or ".pyc" in compiled)
            if is_bytecode and not _is_directory(cache, compiled):
                os.unlink(compiled, dir_fd=cache)
    except FileNotFoundError:
        pass  # a slot replaced it in between
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
