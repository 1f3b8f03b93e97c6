"""The boot of a runner on one host: connect, run the command, send what is missing.

This loads paramiko. Hosts have none, and a script that names `SSHBackend` is imported there as well, so `backend` loads
this only when it is used.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import paramiko

from dragonfly_executor import errors
from dragonfly_executor.backends.agent_command import portable_options
from dragonfly_executor.backends.ssh.archive import Archive, make_archive
from dragonfly_executor.backends.ssh.auth import Credentials
from dragonfly_executor.backends.ssh.bootstrap import Bootstrap, command
from dragonfly_executor.backends.ssh.connect import PACKET, WINDOW, Connection, Connector
from dragonfly_executor.backends.ssh.deadline import Deadline
from dragonfly_executor.backends.ssh.hostkeys import SYSTEM_FILES, USER_FILES, HostKeys, fingerprint, parse_key
from dragonfly_executor.backends.ssh.hosts import SSHHost
from dragonfly_executor.backends.ssh.node import LAST_WORD, ChannelStream, SSHNode, StderrReader, describe, end
from dragonfly_executor.backends.ssh.openssh import Resolver
from dragonfly_executor.parent import VARIABLE
from dragonfly_executor.payload.missing import HOST_NAME

if TYPE_CHECKING:
    from dragonfly_executor.backends.base import BootRequest

SHARE_OF_DIALING = 0.8
"""Of the time that is left of a boot; in the rest its runner says why it did not get through."""

SIGNALS = 128
"""What shells, and keepers, add to the number of the signal that ended somebody."""


class Means(NamedTuple):
    """How hosts are reached, and what runs there; as `SSHBackend` documents it."""

    config: str | None
    user: str | None
    port: int | None
    key_filenames: list[str]
    passphrase: str | None
    password: str | None
    use_agent: bool
    known_hosts: list[str] | None
    host_keys: Iterable[str]
    accept_any_host_key: bool
    connect_timeout: float
    python: str | None
    env: Mapping[str, str]
    cache: str | None
    is_direct: bool

    def __repr__(self) -> str:
        # Neither password nor passphrase, nor what stands in env.
        return f"Means(config={self.config!r}, user={self.user!r}, port={self.port!r})"


class HostBooter:
    """Boots runners on hosts, by the same means on each; any thread.

    Raises:
        ValueError: a key cannot be read.
        OSError: a file of them cannot.
    """

    def __init__(self, means: Means) -> None:
        self._means = means
        self._config = Resolver(means.config)
        self._archives: dict[tuple[str, ...], Archive] = {}
        self._archive_lock = threading.Lock()
        self._connector = Connector(
            HostKeys(
                means.known_hosts if means.known_hosts is not None else [*USER_FILES, *SYSTEM_FILES],
                map(parse_key, means.host_keys),
                accept_any=means.accept_any_host_key,
                configured=means.known_hosts is None,
            ),
            Credentials(means.key_filenames, means.passphrase, means.password, use_agent=means.use_agent),
            means.connect_timeout,
            lambda text, deadline: self._config.resolve(SSHHost(text), None, None, deadline),
        )

    def boot(self, host: SSHHost, request: BootRequest, deadline: Deadline, release: Callable[[], None]) -> SSHNode:
        """Boot a runner on a host.

        Args:
            host: where.
            request: as the backend got it.
            deadline: until when it has to be done.
            release: called once, when the node has been given back.

        Raises:
            BootError: with the phase that it came to, and what the host had to say.
        """
        target = self._config.resolve(host, self._means.user, self._means.port, deadline)
        connection = self._connector.connect(target, deadline)
        with deadline.ending(connection.abandon):
            return self._boot_on(connection, host, request, deadline, release)

    def _boot_on(
        self,
        connection: Connection,
        host: SSHHost,
        request: BootRequest,
        deadline: Deadline,
        release: Callable[[], None],
    ) -> SSHNode:
        means = self._means
        try:
            channel = _open_channel(connection, deadline.left(means.connect_timeout))
            stream, stderr = ChannelStream(channel, deadline), StderrReader(channel, str(host))
        except BaseException:
            connection.close()
            raise
        bootstrap = Bootstrap(str(host), stream, host.python or means.python)
        dial = self._dial(request, deadline)
        try:
            python, digest = host.python or means.python, self._make_archive().digest
            channel_runs = command(python, digest, means.cache, request.timeout, portable_options())
            # The token is for the agent alone, and not for what it starts.
            described = request.parent._replace(token=None).encode()
            env = {**means.env, **host.env, VARIABLE: described, HOST_NAME: str(host)}
            self._run(bootstrap, channel, channel_runs, env, dial, deadline)
            if dial is not None:
                self._wait_until_dialed(bootstrap, request.parent.address)
        except BaseException as error:
            if deadline.is_over:
                connection.cut()  # it would be waited for
            end(connection, channel, stderr, b"" if dial is None else LAST_WORD)
            if isinstance(error, errors.BootError):
                error.output = describe(bootstrap.noise, stderr.tail()) or _exit_status(channel)
            raise
        connection.keep()
        stream.no_deadline()
        slots, noise = host.max_concurrency, bootstrap.noise
        its_stream = stream if dial is None else None
        node = SSHNode(
            connection, channel, its_stream, stderr, noise=noise, slots=slots, release=release, deadline=deadline
        )
        node.facts = _facts(connection, bootstrap, request.parent.address)
        stderr.pass_on(node.nothing_follows)
        return node

    def _dial(self, request: BootRequest, deadline: Deadline) -> Mapping[str, object] | None:
        """What a runner is told that is to dial back. It gives up early enough to say why."""
        if not self._means.is_direct:
            return None
        failsafe = min(self._means.connect_timeout, SHARE_OF_DIALING * deadline.left())
        return {"parent": request.parent.encode(), "failsafe": failsafe}

    def _run(
        self,
        bootstrap: Bootstrap,
        channel: paramiko.Channel,
        command_line: str,
        env: Mapping[str, str],
        dial: Mapping[str, object] | None,
        deadline: Deadline,
    ) -> None:
        host = bootstrap.host
        try:
            channel.exec_command(command_line)
            bootstrap.run(self._make_archive(), env, dial)
        except Exception as error:  # whatever ended the connection, of paramiko's or of what it stands on
            if deadline.is_over:
                text = f"{host} did not get a runner ready in the time that a boot has; boot_timeout= gives it more"
                raise errors.BootTimeoutError(text, "bootstrap") from error
            if isinstance(error, errors.BootError):
                raise
            text = f"{host}: the connection broke during the bootstrap: {str(error) or type(error).__name__}"
            raise errors.BootError(text, "bootstrap") from error

    def _wait_until_dialed(self, bootstrap: Bootstrap, address: str | None) -> None:
        host = bootstrap.host
        try:
            bootstrap.wait_until_dialed()
        except TimeoutError as error:
            text = f"{host} has a runner that did not get to {address} in the time that a boot has"
            raise errors.BootError(text, "connect") from error
        except OSError as error:
            text = f"{host}: the connection broke before its runner had dialed back: {error or type(error).__name__}"
            raise errors.BootError(text, "connect") from error

    def _make_archive(self) -> Archive:
        """Made once: compiling takes longer than connecting."""
        # A pool whose serializer it is has loaded it by now.
        more = ("dill",) if "dill" in sys.modules else ()
        with self._archive_lock:
            if more not in self._archives:
                self._archives[more] = make_archive(*more)
            return self._archives[more]


def _facts(connection: Connection, bootstrap: Bootstrap, address: str | None) -> Mapping[str, str]:
    """What was found out on the way, by phase; `address`: where the runner has dialed back, if it has."""
    target, key = connection.target, connection.key
    sent = f"sent {bootstrap.shipped} bytes" if bootstrap.shipped else "what a runner needs was there"
    return {
        "resolve": f"{target.address}, port {target.port}",
        "host key": "" if key is None else f"{key.get_name()} {fingerprint(key.asbytes())}",
        "auth": f"as {target.user}",
        "python": bootstrap.interpreter,
        "bootstrap": sent,
        **({"handshake": f"over a connection of its own, to {address}"} if address else {}),
    }


def _exit_status(channel: paramiko.Channel) -> str:
    """What there is to tell of a command that printed nothing, because it was killed."""
    return f"the command ended with exit status {channel.exit_status}" if channel.exit_status > SIGNALS else ""


def _open_channel(connection: Connection, patience: float) -> paramiko.Channel:
    try:
        return connection.transport.open_session(WINDOW, PACKET, timeout=patience)
    except Exception as error:
        text = f"{connection.target.label} lets us in, but runs no commands: {str(error) or type(error).__name__}"
        raise errors.BootError(text, "bootstrap") from error
