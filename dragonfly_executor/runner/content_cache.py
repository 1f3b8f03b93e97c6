"""Contents of files, kept by their digests on the runner's host: what one parent has sent the next need not send again.

What lies there is believed only after its digest has been computed anew (`copy`), so a file that was cut short or
meddled with is not used, but asked for again.
"""

from __future__ import annotations

import hashlib
import os
import stat

MAX_TOTAL = 4 * 1024**3
"""Bytes that are kept; beyond that, what was not used for the longest time goes."""
ABANDONED_AFTER = 24 * 3600
"""Seconds after which a content that never became complete is taken away."""
_PIECE = 1024 * 1024


def cache_folder() -> str | None:
    """This user's folder for what may be made again, ours within it; None where there is no home to have it in.

    Where the backend has chosen one, it says so by ``DRAGONFLY_CACHE``.
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
    """Make a folder that only this user can use (0700); False where there can be none."""
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


class Blobs:
    """The contents in one folder, each in a file that is named after its digest."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def path(self, digest: str) -> str:
        """Where a content lies, if it does."""
        return os.path.join(self.folder, digest)

    def has(self, digest: str, size: int) -> bool:
        """Whether a content seems to be there."""
        try:
            status = os.lstat(self.path(digest))
        except OSError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == size

    def receive(self, digest: str, size: int) -> Receiving:
        """Begin to write a content."""
        return Receiving(self, digest, size)

    def copy(self, digest: str, size: int, target: int) -> bool:
        """Copy a content to a descriptor; False, and it is forgotten here, where it is not what its name says."""
        path = self.path(digest)
        found, copied = hashlib.sha256(), 0
        try:
            source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            # No more than it should be: room for a large piece is made anew for each file.
            while piece := os.read(source, min(_PIECE, size - copied + 1)):
                found.update(piece)
                copied += len(piece)
                _write(target, piece)
        finally:
            os.close(source)
        if copied == size and found.hexdigest() == digest:
            _touch(path)
            return True
        self.forget(digest)
        return False

    def forget(self, digest: str) -> None:
        """Take a content away."""
        try:
            os.unlink(self.path(digest))
        except OSError:
            return

    def trim(self, limit: int = MAX_TOTAL) -> None:
        """Take away what is beyond the limit, and what was begun long ago and never became complete."""
        kept = []
        try:
            # The clock that stamps files is asked for its time through one of them.
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


class Receiving:
    """A content that is being written. It gets its name when it is complete and is what the name says."""

    def __init__(self, blobs: Blobs, digest: str, size: int) -> None:
        self._blobs = blobs
        self._digest = digest
        self._left = size
        self._found = hashlib.sha256()
        self._name = os.path.join(blobs.folder, f".{os.getpid()}-{os.urandom(6).hex()}")
        self.fd = os.open(self._name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def write(self, piece: memoryview) -> bool:
        """Add a piece; False if there is more than was announced."""
        self._left -= len(piece)
        if self._left < 0:
            return False
        self._found.update(piece)
        _write(self.fd, piece)
        return True

    def finish(self) -> bool:
        """Keep it, if it is what it should be."""
        if self._left or self._found.hexdigest() != self._digest:
            self.drop()
            return False
        os.close(self.fd)
        os.rename(self._name, self._blobs.path(self._digest))
        return True

    def drop(self) -> None:
        """Forget it."""
        os.close(self.fd)
        try:
            os.unlink(self._name)
        except OSError:
            return


def _touch(path: str) -> None:
    """Remember that it was used just now."""
    try:
        os.utime(path)
    except OSError:
        return  # another runner took it away meanwhile; who asks has his copy


def _write(fd: int, piece: bytes | memoryview) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(fd, view) :]
