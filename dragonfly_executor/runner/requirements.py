"""Virtual environments for third-party packages on the runner's host, one for each list of requirements.

Each environment has a file beside it. The file's mtime is the last use. A process that builds or uses the environment
holds a shared lock on the file; a process that removes the environment needs an exclusive lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
from contextlib import suppress

from dragonfly_executor.runner.content_cache import private_folder
from dragonfly_executor.runner.session_directory import remove_tree

LAST_LINES = 15
"""Lines of an installer's output that are reported when it fails."""
_LAST_BYTES = 16 * 1024
FAILED = 1
KEPT_FOR = 30 * 24 * 3600
"""Seconds after its last use for which an environment is kept."""
_USED = ".used"
_BESIDE = (".lock", ".log", ".txt", _USED)
"""Suffixes of the files beside an environment. The last one is removed last."""
_GONE = ".gone-"
"""Name prefix of an environment that is being removed."""


class VirtualEnvironment:
    """A virtual environment, built on first use. Slots use its packages, not its interpreter.

    Args:
        cache: the folder that holds all environments.
        lines: the lines of a requirements file.

    Attributes:
        site_packages: the folder of its packages, once it is built.
    """

    def __init__(self, cache: str, lines: list[str]) -> None:
        self._lines = lines
        self._within = os.path.join(cache, "environments")
        self._folder = os.path.join(self._within, _key(lines))
        library = os.path.join("lib", f"python{sys.version_info[0]}.{sys.version_info[1]}", "site-packages")
        self.site_packages = os.path.join(self._folder, library)
        self._complete = os.path.join(self._folder, ".complete")
        self._log = f"{self._folder}.log"
        self._used = f"{self._folder}{_USED}"
        self._fd = -1
        self._is_taken = False

    def is_ready(self) -> bool:
        """Return True if the build is complete."""
        return os.path.exists(self._complete)

    def take(self) -> bool:
        """Lock the environment for use, if it is ready. Until this process ends, no process removes it."""
        if not self._is_taken and self.is_ready():
            self._fd = _share(self._used)
            # Check again: before the lock another process could remove it.
            self._is_taken = self.is_ready()
            if not self._is_taken:
                self.leave()
        return self._is_taken

    def leave(self) -> None:
        """Record the time of the last use, and release the lock. Removal is possible `KEPT_FOR` seconds later."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):  # on failure the environment counts as unused for longer
                os.utime(fd)
            os.close(fd)

    def fileno(self) -> int:
        """Return the descriptor that holds the lock, which slots must not keep open; -1 if there is none."""
        return self._fd

    def last_output(self) -> str:
        """Return the last lines of the installer's output."""
        try:
            with open(self._log, "rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - _LAST_BYTES))
                text = log.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.strip().splitlines()[-LAST_LINES:])

    def build(self) -> int:
        """Build the environment, unless another process has just built it. Return an exit status.

        Runs in a process of its own, whose output is redirected to the log.
        """
        if not private_folder(self._within):
            sys.stderr.write(f"dragonfly runner: cannot create a virtual environment in {self._within}\n")
            return FAILED
        _share(self._used)
        with open(f"{self._folder}.lock", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.is_ready():
                return 0
            with open(self._log, "wb") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            remove_tree(self._folder)
            return self._install()

    def _install(self) -> int:
        wanted = f"{self._folder}.txt"
        # An index URL may hold a password, so it is passed in a file that only this user can read, not in argv.
        fd = os.open(wanted, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            file.write("\n".join([*self._lines, ""]))
        try:
            for command in self._commands(wanted):
                if not _succeeds(command):
                    return FAILED
        finally:
            os.unlink(wanted)
        with open(self._complete, "w", encoding="utf-8") as file:
            file.write("\n".join([*self._lines, ""]))
        return 0

    def _commands(self, wanted: str) -> list[list[str]]:
        from shutil import which

        python = os.path.join(self._folder, "bin", "python")
        uv = which("uv")
        if uv is not None:
            return [
                [uv, "venv", "--python", sys.executable, self._folder],
                [uv, "pip", "install", "--python", python, "-r", wanted],
            ]
        pip = [python, "-I", "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
        return [[sys.executable, "-I", "-m", "venv", self._folder], [*pip, "-r", wanted]]


def _key(lines: list[str]) -> str:
    """Return a name derived from everything that an environment depends on."""
    interpreter = [sys.implementation.cache_tag or "", sys.version, os.uname().machine, sys.executable]
    return hashlib.sha256("\n".join([*interpreter, *lines]).encode()).hexdigest()[:32]


def has_leftovers(cache: str) -> bool:
    """Return True if there is something to clean up."""
    return bool(_unused(os.path.join(cache, "environments")) or _half_removed(os.path.join(cache, "environments")))


def clean_up(cache: str) -> int:
    """Remove environments that are long unused, and finish interrupted removals.

    Returns:
        0, the exit status of the process that runs this.
    """
    within = os.path.join(cache, "environments")
    for key in _unused(within):
        path = os.path.join(within, key)
        try:
            fd = os.open(f"{path}{_USED}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink and key in _unused(within):
                _remove(within, key)
        except OSError:
            continue  # another process uses it, or locking is unsupported
        finally:
            os.close(fd)
    for name in _half_removed(within):
        remove_tree(os.path.join(within, name))
    return 0


def _remove(within: str, key: str) -> None:
    """Rename the environment out of the way, which is instant. `clean_up` deletes its files afterwards."""
    path = os.path.join(within, key)
    if os.path.lexists(path):
        os.rename(path, os.path.join(within, f"{_GONE}{key}-{os.urandom(4).hex()}"))
    for suffix in _BESIDE:
        with suppress(FileNotFoundError):
            os.unlink(f"{path}{suffix}")


def _unused(within: str) -> list[str]:
    """Return the environments that have not been used for `KEPT_FOR` seconds, even if they are locked."""
    try:
        # Read the file system's own clock, which stamps files and may differ from the system's clock.
        os.utime(within)
        now = os.stat(within).st_mtime
        names = os.listdir(within)
    except OSError:
        return []
    found = []
    for name in names:
        with suppress(OSError):
            if name.endswith(_USED) and now - os.lstat(os.path.join(within, name)).st_mtime > KEPT_FOR:
                found.append(name.removesuffix(_USED))
    return found


def _half_removed(within: str) -> list[str]:
    """Return the renamed environments whose removal is not complete."""
    try:
        return [name for name in os.listdir(within) if name.startswith(_GONE)]
    except OSError:
        return []


def _share(path: str) -> int:
    """Open and lock a file that keeps an environment from being removed while it is open; -1 on failure.

    If the file system has no locks, no environment is removed, so the missing lock is harmless.
    """
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:
            return -1
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_SH)
            os.utime(fd)
        if os.fstat(fd).st_nlink:
            return fd
        # Another process removed the file between open and lock.
        os.close(fd)


def _succeeds(command: list[str]) -> bool:
    """Run a command to its end. Its output goes to this process's stdout and stderr."""
    try:
        pid = os.posix_spawn(command[0], command, os.environ)
    except OSError as error:
        os.write(2, f"cannot run {command[0]}: {error}\n".encode())
        return False
    return os.waitpid(pid, 0)[1] == 0
