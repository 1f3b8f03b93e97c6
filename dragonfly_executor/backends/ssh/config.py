"""Where a host really is: what ``~/.ssh/config`` makes of its name.

Of its options these count: HostName, User, Port, IdentityFile, IdentitiesOnly, ProxyJump, ProxyCommand,
ConnectTimeout, ServerAliveInterval and HostKeyAlias, under Host and Match, and in included files. What would make ssh
trust more than this package does, StrictHostKeyChecking above all, does not.

This is for machines without an `ssh`: where there is one, `openssh_config` asks it.
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
"""Seconds: fewer than most firewalls forget a silent connection in."""
UNREADABLE = ("canonicalizehostname", "canonicaldomains", "canonicalizemaxdots", "canonicalizefallbacklocal")
"""Options that only OpenSSH itself follows; paramiko fails over some of them."""
COMMANDS = ("proxycommand", "localcommand", "remotecommand", "knownhostscommand")
"""Options whose value is the rest of the line: a # in it belongs to the shell."""
MAX_INCLUDES = 16
"""How deep files may include each other; what OpenSSH allows."""


class Target(NamedTuple):
    """How to reach one host.

    Attributes:
        label: what the user calls it.
        address, port, user: where to connect to, and as whom.
        key_name: under which name its key is known.
        key_files: private keys that the configuration names.
        identities_only: whether no other keys may be shown, those that an agent offers included.
        jumps: hosts to go through, as the user would write them, the first one first.
        proxy_command: the program that connects instead, or None.
        connect_timeout: seconds, or None for what the backend says.
        keepalive: seconds of silence after which the connection is probed; 0 for never.
        agent: the value of IdentityAgent, or None.
        certificate_files: of the user, as the configuration names them.
        known_hosts: the files that the configuration names; empty if that is not known.
        unsupported: options that are set and that paramiko cannot follow, and without which hosts are not known.
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
    unsupported: tuple[str, ...] = ()


class Config:
    """What stands in a configuration file.

    Args:
        path: the file; None for no file. One that is not there says nothing.

    Raises:
        OSError: it is there and cannot be read.
    """

    def __init__(self, path: str | None) -> None:
        self._text = "" if path is None else "\n".join(_lines_of(Path(path).expanduser(), 0))

    def resolve(self, host: SSHHost, user: str | None = None, port: int | None = None) -> Target:
        """How to reach a host.

        Args:
            host: the host; what it says comes first.
            user, port: what counts before the configuration where the host says nothing.

        Raises:
            BootError: the configuration cannot be understood; phase "resolve".
        """
        # Not needed where ssh itself is the client.
        import paramiko
        from paramiko.ssh_exception import ConfigParseError, CouldNotCanonicalize

        user, port = host.user or user, host.port or port
        # In a configuration the first value counts. So placeholders that come after it are filled in with it as well.
        first = ["Host *", *([f"  User {user}"] if user else []), *([f"  Port {port}"] if port else [])]
        try:
            found: Mapping[str, Any] = paramiko.SSHConfig.from_text("\n".join((*first, self._text))).lookup(host.name)
            return _target(host, found)
        except (ConfigParseError, CouldNotCanonicalize, ImportError, ValueError) as error:
            raise BootError(f"{host}: the SSH configuration cannot be understood: {error}", "resolve") from error


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
        # paramiko fills in no port there.
        key_files=tuple(
            str(Path(file.replace("%p", str(port))).expanduser()) for file in found.get("identityfile", ())
        ),
        identities_only=str(found.get("identitiesonly", "no")).lower() == "yes",
        jumps=jumps,
        # Of the two ssh takes the one that comes first. A jump says more, and is safer.
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
    """A file's lines, with those that it includes in their places."""
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
            # As ssh has it, for a user's own file.
            wanted = Path("~/.ssh").expanduser() / Path(pattern.strip('"')).expanduser()
            for included in sorted(Path(wanted.anchor).glob(str(wanted.relative_to(wanted.anchor)))):
                yield from _lines_of(included, depth + 1)
                # What follows belongs to the section that the include stood in.
                yield section
