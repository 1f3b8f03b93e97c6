"""Environments with third-party packages on the runner's host: made once for each list of requirements.

Each has a file beside it that says by its time when it was used last, and by locks who needs it: whoever builds or uses
it shares the lock, and whoever removes it must have the lock alone.
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
"""Lines of what an installer said that are told when it failed."""
_LAST_BYTES = 16 * 1024
FAILED = 1
KEPT_FOR = 30 * 24 * 3600
"""Seconds for which an environment stays that nobody uses."""
_USED = ".used"
_BESIDE = (".lock", ".log", ".txt", _USED)
"""What an environment has beside it; the last is removed last."""
_GONE = ".gone-"
"""So begins the name of one that is being removed."""


class Environment:
    """A virtual environment, which may have to be built first. Its interpreter is not used, its packages are.

    Args:
        cache: the folder in which there is one for all environments.
        lines: of a requirements file.

    Attributes:
        site_packages: where its packages lie once it is built.
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
        """Whether it has been built to the end."""
        return os.path.exists(self._complete)

    def take(self) -> bool:
        """Use it from now on, if it is ready: nobody removes it before this process has ended."""
        if not self._is_taken and self.is_ready():
            self._fd = _share(self._used)
            # Until then somebody else could remove it.
            self._is_taken = self.is_ready()
            if not self._is_taken:
                self.leave()
        return self._is_taken

    def leave(self) -> None:
        """It was used until now, and may be removed when its time is over."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):  # then it counts as older than it is
                os.utime(fd)
            os.close(fd)

    def fileno(self) -> int:
        """What holds it, and slots must not keep open; -1 where nothing does."""
        return self._fd

    def last_words(self) -> str:
        """The end of what the installer said."""
        try:
            with open(self._log, "rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - _LAST_BYTES))
                text = log.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.strip().splitlines()[-LAST_LINES:])

    def build(self) -> int:
        """Build it, unless somebody else just has; the exit status of a process that does nothing but this."""
        if not private_folder(self._within):
            sys.stderr.write(f"dragonfly runner: no environment can be made in {self._within}\n")
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
        # An index's address may hold a password: it stands in a file of this user's own, not in a command line.
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
    """What an environment depends on, as a name."""
    interpreter = [sys.implementation.cache_tag or "", sys.version, os.uname().machine, sys.executable]
    return hashlib.sha256("\n".join([*interpreter, *lines]).encode()).hexdigest()[:32]


def has_litter(cache: str) -> bool:
    """Whether there is something to clean up."""
    return bool(_unused(os.path.join(cache, "environments")) or _halfway(os.path.join(cache, "environments")))


def clean_up(cache: str) -> int:
    """Remove what nobody has used for long, and nobody uses; 0, the status of a process that does nothing else."""
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
            continue  # somebody uses it, or nobody could tell
        finally:
            os.close(fd)
    for name in _halfway(within):
        remove_tree(os.path.join(within, name))
    return 0


def _remove(within: str, key: str) -> None:
    """Out of the way at once; taking apart what is in it is nothing that anybody has to wait for."""
    path = os.path.join(within, key)
    if os.path.lexists(path):
        os.rename(path, os.path.join(within, f"{_GONE}{key}-{os.urandom(4).hex()}"))
    for suffix in _BESIDE:
        with suppress(FileNotFoundError):
            os.unlink(f"{path}{suffix}")


def _unused(within: str) -> list[str]:
    """The environments that were not used for long, those in use among them."""
    try:
        # The clock that stamps files is asked for its time through one of them.
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


def _halfway(within: str) -> list[str]:
    """What somebody began to remove."""
    try:
        return [name for name in os.listdir(within) if name.startswith(_GONE)]
    except OSError:
        return []


def _share(path: str) -> int:
    """A descriptor that keeps an environment from being removed for as long as it is open; -1 where there can be none.

    Where the file system has no locks it keeps nobody from anything; nobody removes anything there either.
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
        # It was removed between the two steps.
        os.close(fd)


def _succeeds(command: list[str]) -> bool:
    """Run a command to its end; what it says goes where this process's own output goes."""
    try:
        pid = os.posix_spawn(command[0], command, os.environ)
    except OSError as error:
        os.write(2, f"cannot run {command[0]}: {error}\n".encode())
        return False
    return os.waitpid(pid, 0)[1] == 0
