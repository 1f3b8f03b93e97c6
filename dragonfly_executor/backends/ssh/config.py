"""A parser of ``~/.ssh/config``, for machines without an `ssh`. If there is an `ssh`, `openssh_config` asks it instead.

It supports these options: HostName, User, Port, IdentityFile, IdentitiesOnly, ProxyJump, ProxyCommand, ConnectTimeout,
ServerAliveInterval and HostKeyAlias, under Host and Match, and in included files. It ignores options that lower
this package's security, above all StrictHostKeyChecking.
"""

from __future__ import annotations

import getpass
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dragonfly_executor.backends.ssh.hosts import SSHHost, port_number, user_name
from dragonfly_executor.errors import BootError

DEFAULT_PORT = 22
DEFAULT_KEEPALIVE = 15
"""Seconds. Most firewalls keep a silent connection for longer than that."""
UNREADABLE = ("canonicalizehostname", "canonicaldomains", "canonicalizemaxdots", "canonicalizefallbacklocal")
"""Options that only OpenSSH supports. paramiko fails on some of them."""
COMMANDS = ("proxycommand", "localcommand", "remotecommand", "knownhostscommand")
"""Options whose value is the rest of the line. A # in it belongs to the shell command."""
MAX_INCLUDES = 16
"""The maximum depth of nested includes, as in OpenSSH."""


class Target(NamedTuple):
    """The connection settings of one host.

    Attributes:
        label: the host as the user wrote it.
        address, port, user: the address to connect to, and the user to log in as.
        key_name: the host's name in known_hosts.
        key_files: private keys that the configuration names.
        identities_only: whether to offer only these keys, and no other keys of an agent.
        jumps: jump hosts as the user wrote them, the first one first.
        proxy_command: the command that connects to the host, or None.
        connect_timeout: seconds, or None for the backend's timeout.
        keepalive: seconds of silence after which the connection is probed; 0 for never.
        agent: the value of IdentityAgent, or None.
        certificate_files: the user's certificates that the configuration names.
        known_hosts: known_hosts files that the configuration names; empty if unknown.
        ciphers: the ciphers for ``ssh`` to offer, in order of preference; empty to leave them to ``ssh``.
        unsupported: options that are set, that paramiko does not support, and without which host keys may be unknown.
    """

    label: str
    address: str
    port: int
    user: str
    key_name: str
    key_files: tuple[str, ...] = ()
    identities_only: bool = False
    jumps: tuple[str, ...] = ()
    proxy_command: str | None = None
    connect_timeout: float | None = None
    keepalive: int = DEFAULT_KEEPALIVE
    agent: str | None = None
    certificate_files: tuple[str, ...] = ()
    known_hosts: tuple[str, ...] = ()
    ciphers: tuple[str, ...] = ()
    unsupported: tuple[str, ...] = ()


class SSHConfig:
    """The content of a configuration file.

    Args:
        path: the file; None for no file. A missing file counts as empty.

    Raises:
        OSError: the file exists and cannot be read.
    """

    def __init__(self, path: str | None) -> None:
        self._text = "" if path is None else "\n".join(_lines_of(Path(path).expanduser(), 0))

    def resolve(self, host: SSHHost, user: str | None = None, port: int | None = None) -> Target:
        """Return the connection settings of a host.

        Args:
            host: the host. Its own settings come first.
            user, port: settings that come next, before the configuration.

        Raises:
            BootError: the configuration is invalid; phase "resolve".
        """
        # Imported late, as it is not needed if ssh is the client.
        import paramiko
        from paramiko.ssh_exception import ConfigParseError, CouldNotCanonicalize

        user, port = host.user or user, host.port or port
        # In a configuration the first value wins. With our values first, placeholders in later values use them as well.
        first = ["Host *", *([f"  User {user}"] if user else []), *([f"  Port {port}"] if port else [])]
        try:
            found: Mapping[str, Any] = paramiko.SSHConfig.from_text("\n".join((*first, self._text))).lookup(host.name)
            return _target(host, found)
        except (ConfigParseError, CouldNotCanonicalize, ImportError, ValueError) as error:
            raise BootError(f"{host}: the SSH configuration cannot be parsed: {error}", "resolve") from error


def _target(host: SSHHost, found: Mapping[str, Any]) -> Target:
    address = str(found["hostname"])
    jumps = jumps_of(found.get("proxyjump"))
    timeout = found.get("connecttimeout")
    port = port_number(int(found.get("port", DEFAULT_PORT))) or DEFAULT_PORT
    alias = found.get("hostkeyalias")
    return Target(
        label=str(host),
        address=address,
        port=port,
        user=user_name(found.get("user")) or getpass.getuser(),
        key_name=str(alias) if alias else address if port == DEFAULT_PORT else f"[{address}]:{port}",
        # paramiko does not replace %p in file names.
        key_files=tuple(
            str(Path(file.replace("%p", str(port))).expanduser()) for file in found.get("identityfile", ())
        ),
        identities_only=str(found.get("identitiesonly", "no")).lower() == "yes",
        jumps=jumps,
        # ssh takes the first of the two. A jump host gives better errors and is safer.
        proxy_command=None if jumps or _is_none(found.get("proxycommand")) else str(found["proxycommand"]),
        connect_timeout=float(timeout) if timeout and float(timeout) > 0 else None,
        keepalive=int(found.get("serveraliveinterval", 0)) or DEFAULT_KEEPALIVE,
    )


def jumps_of(said: object) -> tuple[str, ...]:
    """Return the hosts that a ProxyJump names."""
    return () if _is_none(said) else tuple(map(str.strip, str(said).split(",")))


def _is_none(value: object) -> bool:
    return value is None or str(value).strip().lower() in ("", "none")


def _without_comment(line: str) -> str:
    """Return a line without the comment that OpenSSH allows after its value: a word that begins with a #."""
    quoted = False
    for place, char in enumerate(line):
        quoted ^= char == '"'
        if char == "#" and not quoted and (place == 0 or line[place - 1].isspace()):
            return line[:place].rstrip()
    return line


def _lines_of(path: Path, depth: int) -> Iterable[str]:
    """Yield a file's lines, with the lines of included files in place of each include."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    section = "Host *"
    for line in text.splitlines():
        word, _, rest = line.strip().replace("=", " ", 1).partition(" ")
        if word.lower() in ("host", "match"):
            section = line
        if word.lower() in UNREADABLE:
            continue
        if word.lower() != "include":
            yield line if word.lower() in COMMANDS else _without_comment(line)
            continue
        if depth >= MAX_INCLUDES:
            raise OSError(f"{path}: files include each other more than {MAX_INCLUDES} deep")
        for pattern in rest.split():
            # Relative patterns are below ~/.ssh, as for ssh in a user's own file.
            wanted = Path("~/.ssh").expanduser() / Path(pattern.strip('"')).expanduser()
            for included in sorted(Path(wanted.anchor).glob(str(wanted.relative_to(wanted.anchor)))):
                yield from _lines_of(included, depth + 1)
                # The lines after an include belong to the section around it, so repeat that section's header.
                yield section
