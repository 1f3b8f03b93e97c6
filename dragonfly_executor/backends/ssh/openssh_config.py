"""Resolves host names with ``ssh -G`` of the installed OpenSSH. If there is none, `config` parses the file."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dragonfly_executor.backends.child_processes import answer_of
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.ssh.config import DEFAULT_KEEPALIVE, SSHConfig, Target, jumps_of
from dragonfly_executor.backends.ssh.hosts import SSHHost
from dragonfly_executor.errors import BootError

LIMIT = 10.0
"""Seconds for ``ssh -G``, which may look names up and run the commands of ``Match exec``."""
OWN_KEYS = re.compile(r"~/\.ssh/id_[a-z0-9_]+")
FEWEST_OWN_KEYS = 4
"""If the configuration names no keys, ssh prints its default keys. Every version of ssh has at least this many."""
FAST_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
"""Ciphers to prefer. By default ssh prefers ChaCha20, which takes longer on processors with AES instructions."""

NO_FILE = ["-F", "none"]
"""Options that make ssh read no configuration."""


class SSHConfigResolver:
    """Resolves hosts to connection settings. Each host is resolved once.

    Args:
        path: the configuration file; None for no file. A missing file counts as empty.
        has_parser: whether to parse the file if there is no ssh. If not, ssh also makes the connections, and
            `Target.ciphers` is set unless the configuration names ciphers.

    Raises:
        OSError: the file exists and cannot be read.
    """

    def __init__(self, path: str | None, *, has_parser: bool = True) -> None:
        self._path = path
        self._has_parser = has_parser
        self._parser = SSHConfig(path)
        self._found: dict[tuple[str, str | None, int | None], Target] = {}
        self._lock = threading.Lock()
        """Guards `_found`. It is never held while a program runs."""

    def resolve(self, host: SSHHost, user: str | None, port: int | None, deadline: Deadline) -> Target:
        """Return the connection settings of a host.

        Args:
            host: the host. Its own settings come first.
            user, port: settings that come next, before the configuration.
            deadline: of the boot.

        Raises:
            BootError: the configuration is invalid, or ssh does not answer; phase "resolve".
        """
        user, port = host.user or user, host.port or port
        key = (host.name, user, port)
        with self._lock:
            found = self._found.get(key)
        if found is None:
            found = self._ask(host, user, port, deadline)
            with self._lock:
                self._found[key] = found
        return found._replace(label=str(host))

    def _ask(self, host: SSHHost, user: str | None, port: int | None, deadline: Deadline) -> Target:
        ssh = shutil.which("ssh")
        where = self.options()
        if where is None and not self._has_parser:
            where = NO_FILE
        if ssh is None or where is None:
            return self._parser.resolve(host, user, port)
        who = [*(["-l", user] if user else []), *(["-p", str(port)] if port else [])]
        printed = _print_config([ssh, "-G", *where, *who, "--", host.name], host, deadline)
        try:
            found = _read(printed)
            target = _target(host, found)
        except (KeyError, ValueError) as error:
            raise BootError(f"{host}: the output of ssh -G cannot be parsed: {error}", "resolve") from error
        if self._has_parser:
            return target
        if where == NO_FILE:
            return target._replace(ciphers=_fast_first(found))
        # A cipher list that differs from ssh's own comes from the configuration, and stays as it is.
        default = _read(_print_config([ssh, "-G", *NO_FILE, "--", host.name], host, deadline))
        is_default = found.get("ciphers") == default.get("ciphers")
        return target._replace(ciphers=_fast_first(found)) if is_default else target

    def options(self) -> list[str] | None:
        """Return the options that name the configuration file; None if there is no file for ssh to read."""
        if self._path is None:
            return None
        path = Path(self._path).expanduser()
        if path == Path(pwd.getpwuid(os.getuid()).pw_dir) / ".ssh" / "config":
            return []  # without -F, ssh also reads the system's configuration
        return ["-F", str(path)] if path.exists() else None


def _print_config(command: Sequence[str], host: SSHHost, deadline: Deadline) -> str:
    """Return the output of ``ssh -G``."""
    try:
        answer = answer_of(command, deadline, LIMIT)
    except OSError as error:
        text = f"{host}: ssh -G, which reads the SSH configuration, gave no answer: {error}"
        raise BootError(text, "resolve") from error
    if answer.status != 0:
        said = answer.errors.strip() or f"exit status {answer.status}"
        raise BootError(f"{host}: the SSH configuration cannot be parsed: {said}", "resolve", output=said)
    return answer.output


def _fast_first(found: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return the ciphers of a configuration, AES-GCM first; nothing if it has no AES-GCM."""
    offered = [name for name in found.get("ciphers", ("",))[0].split(",") if name]
    fast = [name for name in FAST_CIPHERS if name in offered]
    return tuple(dict.fromkeys((*fast, *offered))) if fast else ()


def _read(printed: str) -> Mapping[str, Sequence[str]]:
    found: dict[str, list[str]] = {}
    for line in printed.splitlines():
        word, _, value = line.partition(" ")
        found.setdefault(word.lower(), []).append(value.strip())
    return found


def _target(host: SSHHost, found: Mapping[str, Sequence[str]]) -> Target:
    def one(name: str) -> str | None:
        value = found.get(name, ("",))[0]
        return None if value.lower() in ("", "none") else value

    address, port, user = found["hostname"][0], int(found["port"][0]), found["user"][0]
    filled = _filler(host.name, address, port, user)
    keys = [file for file in found.get("identityfile", ()) if file.lower() != "none"]
    if len(keys) >= FEWEST_OWN_KEYS and all(map(OWN_KEYS.fullmatch, keys)):
        keys = []
    alias = one("hostkeyalias")
    timeout = one("connecttimeout")
    named = [file for name in ("userknownhostsfile", "globalknownhostsfile") for file in _words(one(name), filled)]
    agent = found.get("identityagent", ("",))[0]
    jumps = jumps_of(one("proxyjump"))
    command = one("proxycommand")
    return Target(
        label=str(host),
        address=address,
        port=port,
        user=user,
        key_name=alias or (address if port == 22 else f"[{address}]:{port}"),
        key_files=tuple(_path(file, filled) for file in keys),
        identities_only=one("identitiesonly") == "yes",
        jumps=jumps,
        proxy_command=None if jumps or command is None else filled(command),
        connect_timeout=float(timeout) if timeout and float(timeout) > 0 else None,
        keepalive=int(one("serveraliveinterval") or 0) or DEFAULT_KEEPALIVE,
        agent=_agent(agent, filled),
        certificate_files=tuple(_path(file, filled) for file in found.get("certificatefile", ()) if file != "none"),
        known_hosts=tuple(map(_in_home, named)),
        unsupported=tuple(name for name in ("KnownHostsCommand",) if one(name.lower())),
    )


def _in_home(file: str) -> str:
    """Return a file's path below $HOME. ssh takes the home directory from the user database, and Python from $HOME."""
    own = Path(pwd.getpwuid(os.getuid()).pw_dir, ".ssh")
    return str(Path("~/.ssh").expanduser() / Path(file).name) if Path(file).parent == own else file


def _agent(said: str, filled: Callable[[str], str]) -> str | None:
    if not said or said.lower() == "none" or said == "SSH_AUTH_SOCK":
        return said or None
    return said if re.fullmatch(r"\$\w+", said) else _path(said, filled)


def _words(value: str | None, filled: Callable[[str], str]) -> list[str]:
    return [] if value is None else [_path(word, filled) for word in shlex.split(value)]


def _path(text: str, filled: Callable[[str], str]) -> str:
    return str(Path(filled(text.strip('"'))).expanduser())


def _filler(name: str, address: str, port: int, user: str) -> Callable[[str], str]:
    """Return a function that expands ssh's tokens and variables, as ``ssh -G`` does not expand them."""
    own = pwd.getpwuid(os.getuid())
    node = socket.gethostname()
    tokens = {
        "%": "%", "h": address, "n": name, "p": str(port), "r": user, "u": own.pw_name,
        "d": str(Path("~").expanduser()), "i": str(os.getuid()), "l": node, "L": node.partition(".")[0], "k": name,
    }  # fmt: skip

    def filled(text: str) -> str:
        with_tokens = re.sub(r"%(.)", lambda match: tokens.get(match[1], match[0]), text)
        return re.sub(r"\$\{(\w+)\}", lambda match: os.environ.get(match[1], match[0]), with_tokens)

    return filled
