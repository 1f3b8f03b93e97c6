"""Cache of file contents by digest on the runner's host, so that parents need not send the same content twice.

The digest of a content is verified on each use (`copy`). A truncated or modified file is not used; the parent sends it
again.
"""

from __future__ import annotations

import hashlib
import os
import stat

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_TOTAL = 4 * 1024**3
"""Maximum bytes that are kept. Beyond that, the least recently used contents are removed."""
ABANDONED_AFTER = 24 * 3600
"""Seconds after which an incomplete content is removed."""
_PIECE = 1024 * 1024


def cache_folder() -> str | None:
    """Return this package's folder in the user's cache directory; None if the user has no home directory.

    The backend can set another folder by ``DRAGONFLY_CACHE``.
    """
    chosen = os.environ.get("DRAGONFLY_CACHE", "")
    if os.path.isabs(chosen):
        return chosen
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        home = os.path.expanduser("~")
        if not os.path.isabs(home) or home == "/":
            return None
        base = os.path.join(home, ".cache")
    return os.path.join(base, "dragonfly_executor")


def private_folder(path: str) -> bool:
    """Make a folder that only this user can use (mode 0700). Return False if that fails."""
    try:
        os.makedirs(path, 0o700, exist_ok=True)
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            return False
        if stat.S_IMODE(status.st_mode) & 0o077:
            os.chmod(path, 0o700)
        return os.access(path, os.W_OK | os.X_OK)
    except OSError:
        return False


class ContentCache:
    """The contents in one folder, each in a file named by its digest."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def path(self, digest: str) -> str:
        """Return the path of a content, which need not exist."""
        return os.path.join(self.folder, digest)

    def has(self, digest: str, size: int) -> bool:
        """Return True if a file of this digest and size exists. Its content is not verified."""
        try:
            status = os.lstat(self.path(digest))
        except OSError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == size

    def receive(self, digest: str, size: int) -> ContentWriter:
        """Start to write a content."""
        return ContentWriter(self, digest, size)

    def copy(self, digest: str, size: int, target: int) -> bool:
        """Copy a content to a descriptor. If its digest does not match, remove it from the cache and return False."""
        return self._read(digest, size, lambda piece: _write(target, piece))

    def verify(self, digest: str, size: int) -> bool:
        """Read a content. If its digest does not match, remove it from the cache and return False."""
        return self._read(digest, size, len)

    def _read(self, digest: str, size: int, use: Callable[[bytes], object]) -> bool:
        path = self.path(digest)
        found, copied = hashlib.sha256(), 0
        try:
            source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            # os.read allocates the requested size, so request at most one byte more than expected.
            while piece := os.read(source, min(_PIECE, size - copied + 1)):
                found.update(piece)
                copied += len(piece)
                use(piece)
        finally:
            os.close(source)
        if copied == size and found.hexdigest() == digest:
            _touch(path)
            return True
        self.forget(digest)
        return False

    def forget(self, digest: str) -> None:
        """Remove a content."""
        try:
            os.unlink(self.path(digest))
        except OSError:
            return

    def trim(self, limit: int = MAX_TOTAL) -> None:
        """Remove the least recently used contents beyond the limit, and incomplete contents that were abandoned."""
        kept = []
        try:
            # Read the file system's own clock, which stamps files and may differ from the system's clock.
            os.utime(self.folder)
            now = os.stat(self.folder).st_mtime
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    if not entry.name.startswith("."):
                        kept.append((status.st_mtime, status.st_size, entry.name))
                    elif now - status.st_mtime > ABANDONED_AFTER:
                        self.forget(entry.name)
        except OSError:
            return
        total = sum(size for _, size, _ in kept)
        for _, size, name in sorted(kept):
            if total <= limit:
                return
            self.forget(name)
            total -= size


class ContentWriter:
    """A content that is being written. It gets its final name once it is complete and its digest matches."""

    def __init__(self, blobs: ContentCache, digest: str, size: int) -> None:
        self._blobs = blobs
        self._digest = digest
        self._left = size
        self._found = hashlib.sha256()
        self._name = os.path.join(blobs.folder, f".{os.getpid()}-{os.urandom(6).hex()}")
        self.fd = os.open(self._name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def write(self, piece: memoryview) -> bool:
        """Add a piece. Return False if there is more than the announced size."""
        self._left -= len(piece)
        if self._left < 0:
            return False
        self._found.update(piece)
        _write(self.fd, piece)
        return True

    def finish(self) -> bool:
        """Keep the content if its digest matches, and drop it if not. Return True if it is kept."""
        if self._left or self._found.hexdigest() != self._digest:
            self.drop()
            return False
        os.close(self.fd)
        os.rename(self._name, self._blobs.path(self._digest))
        return True

    def drop(self) -> None:
        """Discard the content."""
        os.close(self.fd)
        try:
            os.unlink(self._name)
        except OSError:
            return


def _touch(path: str) -> None:
    """Record that the content was used now."""
    try:
        os.utime(path)
    except OSError:
        return  # another runner removed it, but the caller has its copy


def _write(fd: int, piece: bytes | memoryview) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(fd, view) :]
