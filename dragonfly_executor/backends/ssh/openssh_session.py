"""The OpenSSH client: one process of ``ssh`` per session. Its input and output are the link."""

from __future__ import annotations

import math
import re
import shutil
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from dragonfly_executor.backends.child_processes import Program
from dragonfly_executor.backends.ssh.hosts import SSHHost
from dragonfly_executor.backends.ssh.login_limit import BusyError, LoginLimit
from dragonfly_executor.errors import BootError, HostKeyError

if TYPE_CHECKING:
    from dragonfly_executor.backends.deadline import Deadline
    from dragonfly_executor.backends.ssh.boot_deadline import SSHBootDeadline
    from dragonfly_executor.backends.ssh.config import Target
    from dragonfly_executor.backends.ssh.settings import SSHSettings

NO_CONNECTION = 255
"""The exit status of ssh if it cannot connect or loses the connection. Any other status is the command's."""
NEWER = ("StdinNull", "ForkAfterAuthentication", "SessionType")
"""Options that older versions of ssh do not support."""
OPTIONS = {
    "BatchMode": "yes",
    # Use an existing master's session, but do not become a master: sessions of others then end with this runner.
    "ControlMaster": "no",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "EscapeChar": "none",
    "LogLevel": "ERROR",
    "IgnoreUnknown": ",".join(NEWER),
    **dict(zip(NEWER, ("no", "no", "default"), strict=True)),
}
"""Options of each session. They override the configuration."""
PHASES = (
    ("host key", re.compile("Host key verification failed|host key is known by|revoked")),
    ("resolve", re.compile("Could not resolve hostname")),
    ("auth", re.compile("Permission denied|Too many authentication failures")),
)
BUSY = re.compile("(kex|ssh)_exchange_identification: .*([Cc]losed|reset)|MaxStartups|Not allowed at this time")
"""Messages of ssh about an sshd that refuses a connection because of other connections."""


class ProgramStream:
    """See `CommandStream`. It reads no byte beyond a line's end, as later bytes are the agent's."""

    def __init__(self, session: ProgramSession, deadline: Deadline) -> None:
        self._session = session
        self._deadline = deadline

    def recv(self, size: int, /) -> bytes:
        """Return up to a line; see `CommandStream`."""
        sock = self._session.sock
        sock.settimeout(self._deadline.step_timeout())
        ahead = sock.recv(size, socket.MSG_PEEK)
        self._session.is_logged_in()
        return sock.recv(ahead.find(b"\n") + 1 or len(ahead)) if ahead else b""

    def sendall(self, data: bytes, /) -> None:
        """Send all of `data`; see `CommandStream`."""
        self._session.sock.settimeout(self._deadline.step_timeout())
        self._session.sock.sendall(data)

    def unread(self, data: bytes) -> None:
        """Refuse any bytes, as `recv` reads no byte ahead; see `CommandStream`."""
        if data:
            raise ConnectionError(f"{data[:20]!r} was read ahead of the agent")


class ProgramSession:
    """A process of ``ssh``; see `SSHSession`.

    Args:
        target: the host.
        command: ``ssh`` with its options and the host.
        limit: the limit of concurrent logins at the host.
        deadline: of the boot.
    """

    def __init__(self, target: Target, command: Sequence[str], limit: LoginLimit, deadline: SSHBootDeadline) -> None:
        self.label = target.label
        self.command_stream = ProgramStream(self, deadline)
        self._target = target
        self._command = command
        self._limit = limit
        self._deadline = deadline
        self._stderr, self._its_stderr = socket.socketpair()
        self._program: Program | None = None
        self._status: int | None = None
        self._has_ended = False
        self._turn = ExitStack()
        self._lock = threading.Lock()
        """Guards the program's start against `abandon` on the engine thread."""
        self._is_abandoned = False

    @property
    def sock(self) -> socket.socket:
        """Return the parent's end of the link."""
        if self._program is None:
            raise ConnectionError("no command runs")
        return self._program.sock

    def run(self, command: str) -> None:
        """See `SSHSession`."""
        self._turn.enter_context(self._limit.login(self._deadline))
        try:
            program = Program([*self._command, command], self._its_stderr.fileno())
        except OSError as error:
            raise BootError(f"{self.label}: cannot run {self._command[0]}: {error}", "connect") from error
        finally:
            self._its_stderr.close()
        with self._lock:
            self._program = program
            if self._is_abandoned:
                program.kill()

    def is_logged_in(self) -> None:
        """End this session's turn in the login limit, as the host has answered. Another login may begin there."""
        self._turn.close()

    def stream(self) -> socket.socket:
        """See `SSHSession`."""
        self.sock.settimeout(None)
        return self.sock

    def read_stderr(self, size: int) -> bytes:
        """See `SSHSession`."""
        return self._stderr.recv(size)

    def exit_status(self, timeout: float) -> int | None:
        """See `SSHSession`."""
        if self._program is not None and self._status is None:
            self._status = self._program.status(timeout)
        return None if self._status is None or not 0 <= self._status < NO_CONNECTION else self._status

    def explain(self, said: str) -> BootError | None:
        """See `SSHSession`."""
        if self._status != NO_CONNECTION:
            return None
        text = f"{self.label}: ssh could not connect: {said or 'ssh gave no reason'}"
        if BUSY.search(said):
            self._limit.refused()
            return BusyError(text, "connect", output=said)
        phase = next((phase for phase, words in PHASES if words.search(said)), "connect")
        return (HostKeyError if phase == "host key" else BootError)(text, phase, output=said)

    def facts(self) -> Mapping[str, str]:
        """See `SSHSession`."""
        target = self._target
        return {
            "resolve": f"{target.address}, port {target.port}",
            "host key": "verified by ssh",
            "auth": f"as {target.user}, by ssh",
        }

    def descriptors(self) -> list[int]:
        """See `SSHSession`."""
        ends = [self._stderr] if self._program is None else [self._stderr, self._program.sock]
        return [end.fileno() for end in ends if end.fileno() >= 0]

    def keep(self) -> None:
        """Count a successful login; see `SSHSession`. There is no time limit to lift."""
        self._limit.succeeded()

    def cut(self) -> None:
        """See `SSHSession`."""
        if self._program is not None:
            self._program.cut()

    def abandon(self) -> None:
        """See `SSHSession`."""
        with self._lock:
            self._is_abandoned = True
            if self._program is not None:
                self._program.kill()

    def end(self, last_word: bytes, timeout: float) -> None:
        """See `SSHSession`."""
        if self._has_ended:
            return
        self._has_ended = True
        if self._program is not None:
            with suppress(OSError):
                if last_word:
                    self.sock.settimeout(timeout)
                    self.sock.sendall(last_word)
                self.sock.shutdown(socket.SHUT_WR)
            self._status = self._program.end(timeout, ask=False)
        self._turn.close()
        self._its_stderr.close()
        with suppress(OSError):  # a background process of ssh may hold the other end
            self._stderr.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """See `SSHSession`."""
        self._stderr.close()


class ProgramClient:
    """The client that runs ``ssh``; see `Client`.

    It has all features of the installed ``ssh``: host certificates, GSSAPI, security keys, a master connection.

    Args:
        settings: the settings of the backend.
        config: the options that name the configuration file.

    Raises:
        ValueError: a password, a passphrase or a host key is given. ``ssh`` takes these only in ways that others can
            read.
        FileNotFoundError: there is no ``ssh``.
    """

    def __init__(self, settings: SSHSettings, config: Sequence[str]) -> None:
        for name, value in (("password", settings.login.password), ("passphrase", settings.login.passphrase)):
            if value is not None:
                raise ValueError(f'client="openssh" takes no {name}: use a key without one, or an SSH agent')
        if list(settings.host_keys.pinned):
            raise ValueError('client="openssh" takes no host_key: put it into a file, and name it with known_hosts=')
        ssh = shutil.which("ssh")
        if ssh is None:
            raise FileNotFoundError('client="openssh" needs the program ssh, which is not on PATH')
        self._ssh = ssh
        self._settings = settings
        self._config = config
        self._limits: dict[tuple[str, int, str | None], LoginLimit] = {}
        self._lock = threading.Lock()
        """Guards `_limits`."""

    def open(self, host: SSHHost, target: Target, deadline: SSHBootDeadline) -> ProgramSession:
        """See `Client`."""
        with self._lock:
            limit = self._limits.setdefault((target.address, target.port, target.proxy_command), LoginLimit())
        return ProgramSession(target, [self._ssh, *self._options(host, target), "--", host.name], limit, deadline)

    def _options(self, host: SSHHost, target: Target) -> list[str]:
        settings = self._settings
        timeout = math.ceil(target.connect_timeout or settings.connect_timeout)
        options = {**OPTIONS, "ConnectTimeout": str(timeout), "ServerAliveInterval": str(target.keepalive)}
        options |= self._host_key_options()
        if target.ciphers:
            options["Ciphers"] = ",".join(target.ciphers)
        if not settings.login.use_agent:
            options["IdentityAgent"] = "none"
        user, port = host.user or settings.login.user, host.port or settings.login.port
        return [
            *self._config,
            *(word for name, value in options.items() for word in ("-o", f"{name}={value}")),
            *(word for file in settings.login.key_files for word in ("-i", file)),
            *(["-l", user] if user else []),
            *(["-p", str(port)] if port else []),
        ]

    def _host_key_options(self) -> dict[str, str]:
        """Return the options for host keys. They enforce verification, even if the configuration turns it off."""
        if self._settings.host_keys.accept_any:
            files = {"UserKnownHostsFile": "/dev/null", "GlobalKnownHostsFile": "/dev/null"}
            return {"StrictHostKeyChecking": "no", **files}
        files = {}
        if self._settings.host_keys.files is not None:
            named = " ".join(f'"{file}"' for file in self._settings.host_keys.files)
            files = {"UserKnownHostsFile": named or "/dev/null", "GlobalKnownHostsFile": "/dev/null"}
        return {"StrictHostKeyChecking": "yes", **files}
