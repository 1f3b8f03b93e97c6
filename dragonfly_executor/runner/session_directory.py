"""The session directory: holds a parent's files on the runner's host while the runner lives.

The agent holds a lock on it, and the kernel releases the lock however the agent ends. So the next boot on the host can
tell which directories are orphaned, and removes them.
"""

from __future__ import annotations

import fcntl
import os
import stat

PREFIX = "dragonfly-session-"
_ATTEMPTS = 100


def temporary_folder() -> str:
    """Return this system's folder for temporary files."""
    wanted = [os.environ.get(name, "") for name in ("TMPDIR", "TEMP", "TMP")]
    for folder in (*wanted, "/tmp", "/var/tmp"):  # noqa: S108  # the directories made there have mode 0700
        if folder and os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
            return os.path.abspath(folder)
    return os.getcwd()


class SessionDirectory:
    """A directory of this process's own (mode 0700), removed when the runner ends.

    Attributes:
        path: its absolute path.
        fd: its descriptor, which holds the lock.

    Raises:
        OSError: the directory cannot be made.
    """

    def __init__(self, within: str | None = None) -> None:
        within = temporary_folder() if within is None else within
        for _ in range(_ATTEMPTS):
            self.path = os.path.join(within, f"{PREFIX}{os.geteuid()}-{os.urandom(6).hex()}")
            os.mkdir(self.path, 0o700)
            # Until it is locked, the directory looks orphaned, so a concurrent boot may remove it.
            try:
                self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except FileNotFoundError:
                continue
            if _lock(self.fd) is not False and os.fstat(self.fd).st_nlink > 0:
                return
            os.close(self.fd)
        raise OSError(f"another process removes each new directory in {within}")

    def remove(self) -> None:
        """Remove the directory and its contents. The next boot on this host retries files that cannot be removed."""
        remove_tree(self.path)


def sweep(within: str | None = None) -> list[str]:
    """Remove this user's session directories whose agents are gone. Return their paths."""
    within = temporary_folder() if within is None else within
    prefix = f"{PREFIX}{os.geteuid()}-"
    swept = []
    for name in listed(within):
        if not name.startswith(prefix):
            continue
        path = os.path.join(within, name)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if os.fstat(fd).st_uid == os.geteuid() and _lock(fd):
                remove_tree(path)
                swept.append(path)
        finally:
            os.close(fd)
    return swept


def remove_tree(path: str) -> None:
    """Remove a file, or a directory with its contents. Follow no link, and skip entries that cannot be removed."""
    try:
        mode = os.lstat(path).st_mode
        if not stat.S_ISDIR(mode):
            os.unlink(path)
            return
        if mode & 0o700 != 0o700:
            os.chmod(path, 0o700)
    except OSError:
        return
    for name in listed(path):
        remove_tree(os.path.join(path, name))
    try:
        os.rmdir(path)
    except OSError:
        return


def listed(path: str) -> list[str]:
    """Return the names in a directory; none if it cannot be read."""
    try:
        return os.listdir(path)
    except OSError:
        return []


def _lock(fd: int) -> bool | None:
    """Lock a directory for as long as it is open.

    Returns:
        True if locked, False if another process holds the lock, None if locking is unsupported.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
