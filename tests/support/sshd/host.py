"""Hosts to reach by SSH: a real OpenSSH sshd each, started as this user, with a home of its own.

What runs on such a host sees nothing of this checkout: its HOME, its cache and its directory are a temporary folder,
its PATH leads to `sh` and to a bare Python in which this package is not installed, and its environment is its own.
Nothing here imports more than the standard library, so that the benchmarks can use it.
"""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import venv
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

SYSTEM_PATHS = "/usr/sbin:/usr/local/sbin:/sbin"
PATIENCE = 30.0
PORTS = 20_000, 32_000
"""Below those that Linux and macOS give to outgoing connections."""
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"


def find(program: str) -> str | None:
    """Return the path of a program; also search the directories of an administrator's PATH."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATHS}")


def missing() -> str | None:
    """Return why no host can be started here; None if one can."""
    for program in ("sshd", "ssh-keygen"):
        if find(program) is None:
            return f"no {program} here: install openssh-server"
    shell = pwd.getpwuid(os.getuid()).pw_shell
    if not os.access(shell, os.X_OK) or shell.endswith(("nologin", "false")):
        return f"this user's login shell, {shell}, runs no commands"
    return None


def make_key(path: Path, *, kind: str = "ed25519", passphrase: str = "") -> Path:
    """Make a key pair. Return the path of its private key."""
    command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "test", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


def public_half(key: Path) -> str:
    """Return type and key of the public key, as in authorized_keys."""
    return " ".join(Path(f"{key}.pub").read_text().split()[:2])


def make_bare_python(folder: Path) -> Path:
    """Make an empty virtual environment. Return its folder of programs."""
    venv.create(folder, with_pip=False, symlinks=True)
    return folder / "bin"


def free_port() -> int:
    """Return a loopback port that is free. The system gives it to no outgoing connection while the host is down."""
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", random.randrange(*PORTS)))
            return int(probe.getsockname()[1])


class Host:
    """A host.

    Args:
        folder: a new folder for all that it has.
        key: of the user who may log in; more are added with `authorize`.
        programs: folders of its PATH, after its own `bin`.
        settings: further lines for its sshd_config.
        within: the command that starts its sshd somewhere else, as in a network namespace.
        address, port: where it listens.
    """

    def __init__(
        self,
        folder: Path,
        key: Path,
        programs: Sequence[Path],
        *,
        settings: Sequence[str] = (),
        within: Sequence[str] = (),
        address: str = "127.0.0.1",
        port: int | None = None,
    ) -> None:
        self.folder = folder
        self.address = address
        self.port = free_port() if port is None else port
        self.home = folder / "home"
        self.cache = folder / "cache"
        self.bin = folder / "bin"
        self.log: list[str] = []
        self._within = list(within)
        self._settings = list(settings)
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        for made in (folder, self.home, self.cache, self.bin):
            made.mkdir(parents=True)
        (self.bin / "sh").symlink_to("/bin/sh")
        self.path = [str(self.bin), *map(str, programs)]
        self.profile("")
        self.key = make_key(folder / "host_key")
        (folder / "authorized_keys").write_text("")
        self.authorize(key)

    @property
    def spec(self) -> str:
        """Return the host as users write it: address and port."""
        return f"{self.address}:{self.port}"

    @property
    def known_as(self) -> str:
        """Return its line in a known_hosts file."""
        name = self.address if self.port == 22 else f"[{self.address}]:{self.port}"
        return f"{name} {public_half(self.key)}\n"

    @property
    def archives(self) -> list[Path]:
        """Return the archives in its cache, oldest first."""
        folder = self.cache / "dragonfly_executor"
        found = folder.glob("*.zip*") if folder.is_dir() else ()
        return sorted(found, key=lambda path: path.stat().st_mtime_ns)

    def authorize(self, key: Path, options: str = "") -> None:
        """Add a key that may log in."""
        with (self.folder / "authorized_keys").open("a") as keys:
            keys.write(f"{options} {public_half(key)} test\n".lstrip())

    def profile(self, commands: str) -> None:
        """Set the commands that its shell runs before each command."""
        (self.folder / "profile").write_text(commands + "\n")

    def change_key(self) -> None:
        """Replace the host key, as if another machine answered. The next start uses it."""
        for name in ("host_key", "host_key.pub"):
            (self.folder / name).unlink()
        make_key(self.folder / "host_key")

    def start(self) -> None:
        """Start sshd, and wait until it listens."""
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd wants to drop its privileges
        config = self.folder / "sshd_config"
        config.write_text(self._config())
        command = [*self._within, str(find("sshd")), "-D", "-e", "-f", str(config)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True, env={}
        )
        listening = threading.Event()
        self._reader = threading.Thread(target=self._read_log, args=(listening,), name="sshd-log", daemon=True)
        self._reader.start()
        if not listening.wait(PATIENCE) or self._process.poll() is not None:
            self.stop()
            raise RuntimeError("sshd does not start:\n" + "".join(self.log))

    def _read_log(self, listening: threading.Event) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        with self._process.stderr as log:
            for line in log:
                self.log.append(line)
                if line.startswith("Server listening"):
                    listening.set()
        listening.set()

    def _config(self) -> str:
        login = self.folder / "login"
        login.write_text(f'cd "$HOME"\n. {self.folder}/profile\nexec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n')
        mark = os.environ.get("DRAGONFLY_TEST_CENSUS", "")
        environment = {
            "HOME": self.home,
            "XDG_CACHE_HOME": self.cache,
            "PATH": ":".join(self.path),
            "DRAGONFLY_TEST_CENSUS": mark,
        }
        # sshd takes the first value of an option.
        lines = [
            *[line for line in self._settings if line.startswith("MaxStartups")],
            f"ListenAddress {self.address}:{self.port}",
            f"HostKey {self.folder}/host_key",
            f"AuthorizedKeysFile {self.folder}/authorized_keys",
            "PidFile none",
            "UsePAM no",
            "StrictModes no",
            "PermitRootLogin yes",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "MaxStartups 100",
            "MaxAuthTries 20",
            "LogLevel VERBOSE",
            "SetEnv " + " ".join(f'"{name}={value}"' for name, value in environment.items()),
            f"ForceCommand /bin/sh {login}",
            *self._settings,
        ]
        return "\n".join(lines) + "\n"

    def stop(self) -> None:
        """Stop listening, and cut all connections. A second call does nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        for pid in (process.pid, *descendants(process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        assert self._reader is not None
        self._reader.join(PATIENCE)

    def connections(self) -> list[int]:
        """Return the sshd processes that serve connections, one or two for each connection."""
        assert self._process is not None
        return [pid for pid in descendants(self._process.pid) if _name_of(pid).startswith("sshd")]

    def processes(self) -> list[int]:
        """Return all processes on the host except sshd."""
        assert self._process is not None
        names = {pid: _name_of(pid) for pid in descendants(self._process.pid)}
        # A process without a name has ended since it was found.
        return [pid for pid, name in names.items() if name and not name.startswith("sshd")]


def descendants(pid: int) -> list[int]:
    """Return all descendants of a process, nearest first."""
    found, waiting = [], [pid]
    while waiting:
        parent = waiting.pop(0)
        with suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
        found.append(parent)
    return found[1:]


def _name_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""
