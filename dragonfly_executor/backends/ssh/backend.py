"""`SSHBackend`: boots runners on hosts by SSH. The hosts need sshd and Python, and no other installation."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from dragonfly_executor.backends.base import Backend, BootRequest, Node
from dragonfly_executor.backends.ssh.host_race import HostRace
from dragonfly_executor.backends.ssh.host_table import HostTable
from dragonfly_executor.backends.ssh.hosts import SSHHost, address, variables
from dragonfly_executor.backends.ssh.settings import HostKeySettings, LoginSettings, SSHSettings
from dragonfly_executor.core.capacity import UNKNOWN, Capacity
from dragonfly_executor.sync.options import Sync
from dragonfly_executor.transport.tcp import WILDCARDS
from dragonfly_executor.util import validation
from dragonfly_executor.util.validation import duration, hook, whole

if TYPE_CHECKING:
    from typing import Unpack

    from dragonfly_executor.backends.ssh.boot import HostBooter
    from dragonfly_executor.backends.ssh.settings import PathLike
    from dragonfly_executor.backends.tier_keywords import TierKeywords
    from dragonfly_executor.util.validation import Seconds, Wait

CONNECT = ("channel", "direct")
CLIENTS = ("paramiko", "openssh")
LOOPBACK = "127.0.0.1"


class SSHBackend(Backend):
    """Boots runners on hosts, with one SSH connection per runner.

    A host needs sshd and a Python of the parent's minor version. All other files are sent to the host once and kept
    in a cache there. The link is the SSH channel, so neither side opens a port. With ``connect="direct"``, the runner
    is started in the same way, and then connects to this machine over TLS, with a pinned certificate and a single-use
    token. That is faster with much data, and calls survive the loss of the SSH connection.

    Host keys are always verified against known_hosts. The host with the fewest runners for its size comes next. If a
    host does not answer within a second, the boot tries the next host as well, and the first host that answers gets the
    runner. If a boot fails on a host, the backend does not use that host for a while, and continues the boot on the
    other hosts. A host with an unknown key or without a fitting Python is never used again.

    Args:
        hosts: names, addresses, aliases of ``~/.ssh/config``, ``user@name:port``, or `SSHHost` objects.
        user, port: for hosts that do not give their own. They override the SSH configuration.
        key_filename: a private key file, or several, which are tried first. A certificate next to a key
            (``...-cert.pub``) is used.
        passphrase: of these keys. Keys in an SSH agent need none.
        password: tried last. It is sent to the hosts themselves, and never to jump hosts.
        use_agent: whether to use the keys of an SSH agent.
        known_hosts: a file, or several, in place of the user's and the system's known_hosts.
        host_key: the host key that all hosts must show, or several, as in a ``.pub`` file. If given, no known_hosts
            file is read.
        insecure_accept_any_host_key: accept any host key. An attacker can then impersonate a host. Only for tests.
        config: the SSH configuration file; default ``~/.ssh/config``. None for no file.
        python: the interpreter on the hosts, as a name or a path. Default: search for one on the host.
        env: environment variables for the runners. They are sent over the connection and are in no command line.
        sync: which files of this program are sent. "auto": its script, and the modules that it has imported from
            outside its site-packages and standard library. A list of files and folders: these in addition. None: no
            files. A `Sync`: with its own limits. Only changed files are sent, also before later calls.
        requirements: third-party packages for the hosts, as lines of a requirements file or as its path. They are
            installed on each host once, into a separate environment.
        cache: the cache folder on the hosts; default ``$XDG_CACHE_HOME`` or ``~/.cache``.
        runners_per_host: the number of runners on each host that does not give its own; default 1.
        connect_timeout: seconds (or a `timedelta`; default 15) for each of these steps: connect, key exchange, login,
            opening a session. With "direct", also for the runner to dial back.
        host_wait: a tenacity wait strategy for how long a failed host is set aside. None: exponential with jitter, from
            one second to five minutes.
        connect: "channel", or "direct" for runners that connect to this machine.
        parent_address: with "direct", the address of this machine that hosts dial, as "host" or "host:port". Default:
            the loopback, which only this machine can reach. Without a port, any free port is taken.
        bind_address: with "direct", the address to listen on, if it differs from `parent_address`, as behind a
            forwarded port. It has the same form. Default: `parent_address`. A wildcard address logs a warning.
        max_lifetime: seconds (or a `timedelta`) after which a runner drains and goes, so that its host can be rebooted,
            or memory that calls leak is returned. Calls that still run then are lost. Default: never.
        client: the SSH client. "paramiko", or "openssh" for the installed program ``ssh`` with one process per runner.
            The program supports neither `password` nor `passphrase` nor `host_key`.
        labels: free labels of the runners, such as ``{"eu"}``, in addition to those of their hosts.
        tier: `max`, `idle_shutdown_after` and `budget` of the runners of this backend; see `Backend.set_limits`.

    Raises:
        TypeError, ValueError: an argument is invalid.
        OSError: the configuration file cannot be read.
        ImportError: the client is paramiko, and paramiko is not installed.
    """

    name = "ssh"
    default_boot_timeout = 60.0
    expected_boot_time = 5.0
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
        max_lifetime: Seconds | None = None,
        labels: Iterable[str] = (),
        **tier: Unpack[TierKeywords],
    ) -> None:
        self.set_limits(**tier)
        self.hosts = _hosts(hosts)
        self.labels = validation.labels(labels, "labels")
        self.sync = Sync.of(sync, requirements)
        self.dials_back = _one_of(CONNECT, connect, "connect") == "direct"
        self._listen_where(parent_address, bind_address)
        self._places = _host_table(self.hosts, runners_per_host, host_wait)
        self.default_max = self._places.size
        settings = SSHSettings(
            config=None if config is None else str(config),
            login=LoginSettings.check(user, port, key_filename, passphrase, password, use_agent),
            host_keys=HostKeySettings.check(known_hosts, host_key, insecure_accept_any_host_key),
            connect_timeout=duration(connect_timeout, "connect_timeout", positive=True),
            python=python,
            env=variables(env),
            cache=cache,
            is_direct=self.dials_back,
            client=_one_of(CLIENTS, client, "client"),
        )
        self._max_lifetime = None if max_lifetime is None else duration(max_lifetime, "max_lifetime", positive=True)
        self._booter = _host_booter(settings)

    def __repr__(self) -> str:
        return f"SSHBackend({[str(host) for host in self.hosts]})"

    def _listen_where(self, parent_address: str | None, bind_address: str | None) -> None:
        if not self.dials_back and (parent_address is not None or bind_address is not None):
            raise ValueError('parent_address and bind_address need connect="direct"')
        host, port = (LOOPBACK, None) if parent_address is None else address(parent_address, "parent_address")
        if host in WILDCARDS:
            raise ValueError(
                f"hosts cannot dial {host!r}: give an address of this machine as parent_address=, "
                f"and {host!r} as bind_address="
            )
        bound, bound_port = (host, port) if bind_address is None else address(bind_address, "bind_address")
        if parent_address is None and bind_address is not None:
            raise ValueError("bind_address needs parent_address: the address that the hosts dial")
        self._bound = bound, bound_port or port or 0
        self.advertised_host, self.advertised_port = host, port

    def listen_address(self) -> tuple[str, int]:
        """Return the address to listen on for runners that dial back."""
        return self._bound

    def capacities(self) -> Sequence[Capacity]:
        """See `Backend.capacities`. Only the labels of a host are known before a runner is up there."""
        return [Capacity(UNKNOWN, UNKNOWN, UNKNOWN, self.labels | host.labels) for host in self.hosts]

    def boot(self, request: BootRequest) -> Node:
        """Boot a runner on the host whose turn it is. If that fails, try the next hosts.

        Raises:
            HostKeyError, VersionMismatchError: no host can be used any more, for this reason.
            BootError: no host could be used this time. Its phase is one of "resolve", "connect", "host key", "auth",
                "python", "bootstrap" and "handshake".
        """
        self._booter.prepare()
        unfit = frozenset[int]()
        if request.requires is not None:
            wanted = request.requires.labels
            unfit = frozenset(n for n, host in enumerate(self.hosts) if not wanted <= self.labels | host.labels)
        node = HostRace(self._places, self._booter, request, unfit).run()
        if self._max_lifetime is not None:
            node.lifetime = self._max_lifetime
            node.ended_by = f"its max_lifetime of {self._max_lifetime:g} s had passed"
        return node


def _hosts(hosts: Iterable[str | SSHHost]) -> list[SSHHost]:
    if isinstance(hosts, str | SSHHost):
        raise TypeError("hosts must be a list of hosts, not one of them")
    listed = [host if isinstance(host, SSHHost) else SSHHost(host) for host in hosts]
    if not listed:
        raise ValueError("hosts must name at least one host")
    return listed


def _host_table(hosts: list[SSHHost], runners_per_host: int, host_wait: Wait | None) -> HostTable:
    per_host = whole(runners_per_host, "runners_per_host", 1)
    return HostTable(hosts, [host.runners or per_host for host in hosts], hook(host_wait, "host_wait"))


def _host_booter(settings: SSHSettings) -> HostBooter:
    if settings.client == "paramiko":
        try:
            import paramiko  # noqa: F401
        except ImportError as error:
            raise ImportError("SSHBackend needs paramiko: pip install 'dragonfly-executor[ssh]'") from error
    from dragonfly_executor.backends.ssh.boot import HostBooter

    return HostBooter(settings)


def _one_of(allowed: tuple[str, ...], value: str, name: str) -> str:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")
    return value
