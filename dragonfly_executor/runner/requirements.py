"""Environments with third-party packages on the runner's host: made once for each list of requirements."""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys

from dragonfly_executor.runner.blobs import private_folder
from dragonfly_executor.runner.session import remove_tree

LAST_LINES = 15
"""Lines of what an installer said that are told when it failed."""
_LAST_BYTES = 16 * 1024
FAILED = 1


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

    def is_ready(self) -> bool:
        """Whether it has been built to the end."""
        return os.path.exists(self._complete)

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


def _succeeds(command: list[str]) -> bool:
    """Run a command to its end; what it says goes where this process's own output goes."""
    try:
        pid = os.posix_spawn(command[0], command, os.environ)
    except OSError as error:
        os.write(2, f"cannot run {command[0]}: {error}\n".encode())
        return False
    return os.waitpid(pid, 0)[1] == 0
