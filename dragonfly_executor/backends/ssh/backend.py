"""Runners on hosts that can be reached by SSH. Nothing need be installed there but Python."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dragonfly_executor.backends.base import Backend, BootRequest, Node
from dragonfly_executor.backends.ssh.host_race import Race
from dragonfly_executor.backends.ssh.host_table import Places
from dragonfly_executor.backends.ssh.hosts import SSHHost, address, port_number, user_name, variables
from dragonfly_executor.sync.options import Sync
from dragonfly_executor.transport.tcp import WILDCARDS
from dragonfly_executor.util.validation import duration, hook, whole

if TYPE_CHECKING:
    from dragonfly_executor.util.validation import Seconds, Wait

    PathLike = str | Path

CONNECT = ("channel", "direct")
CLIENTS = ("paramiko", "openssh")
LOOPBACK = "127.0.0.1"


class SSHBackend(Backend):
    """Boots runners on hosts, one connection each.

    A host needs sshd and a Python of the same minor version as the parent's. What a runner needs besides is sent there
    once and kept in a cache. The runner speaks over the SSH channel: no port is opened on either side. With
    ``connect="direct"`` it is started in the same way, and then connects to this machine, over TLS with a pinned
    certificate and a single-use token: quicker with much data, and its calls outlive the SSH connection.

    Host keys are verified against known_hosts, always. Hosts take turns, the one that carries the fewest runners first.
    If a host gives no answer for a second, the boot tries the next one too, and the host that answers first carries the
    runner. A host on which a boot fails is set aside for a while, and the boot goes on with the others; one that shows
    an unknown key, or has no fitting Python, is not used again.

    Args:
        hosts: names, addresses, aliases of ``~/.ssh/config``, ``user@name:port``, or `SSHHost` objects.
        user, port: for hosts that say nothing else; they come before the configuration.
        key_filename: a private key, or several, tried first. A certificate beside one (``...-cert.pub``) is used.
        passphrase: of these keys. Keys that an SSH agent holds need none.
        password: tried last, on the hosts themselves and never on the way there.
        use_agent: whether the keys of an SSH agent count.
        known_hosts: a file, or several, instead of the user's and the system's own known_hosts.
        host_key: the key that the hosts must show, or several, as in a ``.pub`` file; then no file is asked.
        insecure_accept_any_host_key: let anybody answer in a host's place who can. For tests alone.
        config: the SSH configuration file, default ``~/.ssh/config``; None for none.
        python: the interpreter on the hosts, a name or a path; default what is found there.
        env: variables for the runners. They travel on the connection, and in no command line.
        sync: what of this program's own files travels: "auto" for the modules that it has imported from outside its
            site-packages and standard library, and its script; a list of files and folders for those in addition; None
            for nothing; or a `Sync` with limits of its own. Only what has changed is sent, also before later calls.
        requirements: third-party packages for the hosts, as lines of a requirements file or the path of one. They are
            installed there once, into an environment of their own.
        cache: the folder on the hosts for what is sent there; default ``$XDG_CACHE_HOME`` or ``~/.cache``.
        runners_per_host: runners at once on a host that does not say itself; 1.
        connect_timeout: seconds (or a `timedelta`; 15) for each of reaching a host, agreeing on keys, logging in, and
            opening a session; with "direct" also for its runner to get here.
        host_wait: a tenacity wait strategy for how long a host that failed is set aside; None for an exponential one
            with jitter, from a second to five minutes.
        connect: "channel", or "direct" for runners that connect to this machine.
        parent_address: with "direct", where the hosts reach this machine, as "host" or "host:port"; default the
            loopback, on which only this machine itself can. Without a port any free one is taken.
        bind_address: with "direct", what is bound here where that is something else, as behind a port that is
            forwarded; the same form, default `parent_address`. A wildcard is warned of.
        client: what speaks SSH: "paramiko", or "openssh" for the installed program ``ssh``, one process for each
            runner. The program takes neither `password` nor `passphrase` nor `host_key`.

    Raises:
        TypeError, ValueError: an argument is none of these.
        OSError: the configuration file cannot be read.
        ImportError: paramiko is not installed, and is the client.
    """

    name = "ssh"
    default_boot_timeout = 60.0
    phases = ("resolve", "connect", "host key", "auth", "python", "bootstrap", "handshake", "sync", "requirements")

    def __init__(
        self,
        hosts: Iterable[str | SSHHost],
        *,
        user: str | None = None,
        port: int | None = None,
        key_filename: PathLike | Iterable[PathLike] | None = None,
        passphrase: str | None = None,
        password: str | None = None,
        use_agent: bool = True,
        known_hosts: PathLike | Iterable[PathLike] | None = None,
        host_key: str | Iterable[str] | None = None,
        insecure_accept_any_host_key: bool = False,
        config: PathLike | None = "~/.ssh/config",
        python: str | None = None,
        env: Mapping[str, str] | None = None,
        sync: Sync | str | Iterable[str | os.PathLike[str]] | None = "auto",
        requirements: Iterable[str] | str | os.PathLike[str] | None = None,
        cache: str | None = None,
        runners_per_host: int = 1,
        connect_timeout: Seconds = 15.0,
        host_wait: Wait | None = None,
        connect: str = "channel",
        parent_address: str | None = None,
        bind_address: str | None = None,
        client: str = "paramiko",
    ) -> None:
        self.hosts = _hosts(hosts)
        self.sync = Sync.of(sync, requirements)
        self.dials_back = _is_direct(connect)
        self._listen_where(parent_address, bind_address)
        per_host = whole(runners_per_host, "runners_per_host", 1)
        sizes = [host.runners or per_host for host in self.hosts]
        self._places = Places(self.hosts, sizes, hook(host_wait, "host_wait"))
        if client not in CLIENTS:
            raise ValueError(f"client must be one of {', '.join(map(repr, CLIENTS))}, not {client!r}")
        if client == "paramiko":
            _need_paramiko()
        from dragonfly_executor.backends.ssh.boot import HostBooter
        from dragonfly_executor.backends.ssh.session import Means

        means = Means(
            config=None if config is None else str(config),
            user=user_name(user),
            port=port_number(port),
            key_filenames=_texts(key_filename),
            passphrase=passphrase,
            password=password,
            use_agent=use_agent,
            known_hosts=None if known_hosts is None else _texts(known_hosts),
            host_keys=_texts(host_key),
            accept_any_host_key=insecure_accept_any_host_key,
            connect_timeout=duration(connect_timeout, "connect_timeout", positive=True),
            python=python,
            env=variables(env),
            cache=cache,
            is_direct=self.dials_back,
            client=client,
        )
        self._booter = HostBooter(means)
        self.default_max = self._places.size

    def __repr__(self) -> str:
        return f"SSHBackend({[str(host) for host in self.hosts]})"

    def _listen_where(self, parent_address: str | None, bind_address: str | None) -> None:
        if not self.dials_back and (parent_address is not None or bind_address is not None):
            raise ValueError('parent_address and bind_address have a meaning with connect="direct" only')
        host, port = (LOOPBACK, None) if parent_address is None else address(parent_address, "parent_address")
        if host in WILDCARDS:
            raise ValueError(f"nobody can dial {host!r}: parent_address is what they dial, bind_address what is bound")
        bound, bound_port = (host, port) if bind_address is None else address(bind_address, "bind_address")
        if parent_address is None and bind_address is not None:
            raise ValueError("bind_address without parent_address: the hosts would not know what to dial")
        self._bound = bound, bound_port or port or 0
        self.advertised_host, self.advertised_port = host, port

    def listen_address(self) -> tuple[str, int]:
        """See `Backend`."""
        return self._bound

    def boot(self, request: BootRequest) -> Node:
        """Boot a runner on the host whose turn it is, or on the next one if that fails.

        Raises:
            HostKeyError, VersionMismatchError: no host is left, and this is why.
            BootError: none of the hosts could be used this time. Its phase is one of "resolve", "connect", "host key",
                "auth", "python", "bootstrap" and "handshake".
        """
        self._booter.prepare()
        return Race(self._places, self._booter, request).run()


def _hosts(hosts: Iterable[str | SSHHost]) -> list[SSHHost]:
    if isinstance(hosts, str | SSHHost):
        raise TypeError("hosts must be a list of hosts, not one of them")
    listed = [host if isinstance(host, SSHHost) else SSHHost(host) for host in hosts]
    if not listed:
        raise ValueError("hosts must name at least one host")
    return listed


def _need_paramiko() -> None:
    try:
        import paramiko  # noqa: F401
    except ImportError as error:
        raise ImportError("SSHBackend needs paramiko: pip install 'dragonfly-executor[ssh]'") from error


def _is_direct(connect: str) -> bool:
    if connect not in CONNECT:
        raise ValueError(f"connect must be one of {', '.join(map(repr, CONNECT))}, not {connect!r}")
    return connect == "direct"


def _texts(value: PathLike | Iterable[PathLike] | None) -> list[str]:
    """One text or path, or several, or none."""
    if value is None:
        return []
    return [str(value)] if isinstance(value, str | Path) else [str(item) for item in value]
