"""The directory on the runner's host in which a parent's files lie while the runner lives.

Its agent holds a lock on it, which the kernel lets go of however the agent ends. So whoever boots next on the host can
tell what was left behind, and takes it away.
"""

from __future__ import annotations

import fcntl
import os
import stat

PREFIX = "dragonfly-session-"
_ATTEMPTS = 100


def temporary_folder() -> str:
    """Where this system keeps what need not last."""
    wanted = [os.environ.get(name, "") for name in ("TMPDIR", "TEMP", "TMP")]
    for folder in (*wanted, "/tmp", "/var/tmp"):  # noqa: S108  # what is made in there is this user's alone
        if folder and os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
            return os.path.abspath(folder)
    return os.getcwd()


class Session:
    """A directory of this process's own (0700), gone with it.

    Attributes:
        path: where it lies.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, within: str | None = None) -> None:
        within = temporary_folder() if within is None else within
        for _ in range(_ATTEMPTS):
            self.path = os.path.join(within, f"{PREFIX}{os.geteuid()}-{os.urandom(6).hex()}")
            os.mkdir(self.path, 0o700)
            # Until it is locked it looks like one that was left behind: who boots beside this one may take it away.
            try:
                self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except FileNotFoundError:
                continue
            if _lock(self.fd) is not False and os.fstat(self.fd).st_nlink > 0:
                return
            os.close(self.fd)
        raise OSError(f"no directory in {within} stays")

    def remove(self) -> None:
        """Take it away with all that is in it. What cannot be removed is left for the next boot on this host."""
        remove_tree(self.path)


def sweep(within: str | None = None) -> list[str]:
    """Take away the sessions of this user whose agents are gone, and say which."""
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
    """Remove a file, or a directory and what is in it, following no link; what refuses to go stays."""
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
    """Return what is in a directory; nothing if it cannot be read."""
    try:
        return os.listdir(path)
    except OSError:
        return []


def _lock(fd: int) -> bool | None:
    """Lock a directory for as long as it is open: False where another process has it, None where nobody can."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
