"""The boot of a runner on one host: connect, run the command, send what is missing.

This loads paramiko. Hosts have none, and a script that names `SSHBackend` is imported there as well, so `backend` loads
this only when it is used.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import paramiko

from dragonfly_executor import errors
from dragonfly_executor.backends.agent_command import portable_options
from dragonfly_executor.backends.ssh.archive import Archive, make_archive
from dragonfly_executor.backends.ssh.auth import Credentials
from dragonfly_executor.backends.ssh.bootstrap import Bootstrap, command
from dragonfly_executor.backends.ssh.connect import PACKET, WINDOW, Connection, Connector
from dragonfly_executor.backends.ssh.deadline import Deadline
from dragonfly_executor.backends.ssh.hostkeys import SYSTEM_FILES, USER_FILES, HostKeys, parse_key
from dragonfly_executor.backends.ssh.hosts import SSHHost
from dragonfly_executor.backends.ssh.node import LAST_WORD, SSHNode
from dragonfly_executor.backends.ssh.openssh import Resolver
from dragonfly_executor.backends.ssh.reached import ReachedHost
from dragonfly_executor.parent import VARIABLE
from dragonfly_executor.payload.missing import HOST_NAME

if TYPE_CHECKING:
    from dragonfly_executor.backends.base import BootRequest
    from dragonfly_executor.backends.ssh.places import Place

SHARE_OF_DIALING = 0.8
"""Of the time that is left of a boot; in the rest its runner says why it did not get through."""


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

    def reach(self, host: SSHHost, request: BootRequest, deadline: Deadline) -> ReachedHost:
        """Connect to a host, and have Python say its first word there.

        Args:
            host: where.
            request: as the backend got it.
            deadline: until when it has to be done.

        Raises:
            BootError: with the phase that it came to, and what the host had to say.
        """
        means, python = self._means, host.python or self._means.python
        archive = self._make_archive()
        deadline.progress()
        target = self._config.resolve(host, means.user, means.port, deadline)
        connection = self._connector.connect(target, deadline)
        with deadline.ending(connection.abandon):
            try:
                channel = _open_channel(connection, deadline.left(means.connect_timeout))
                reached = ReachedHost(host, connection, channel, python, archive, deadline)
            except BaseException:
                connection.close()
                raise
            deadline.progress()
            with reached.bootstrapping():
                options, mark = portable_options(), os.urandom(8).hex()
                channel.exec_command(command(python, archive.digest, means.cache, request.timeout, options, mark))
                reached.bootstrap.hear()
            return reached

    def finish(self, reached: ReachedHost, request: BootRequest, deadline: Deadline, place: Place) -> SSHNode:
        """Send a host what it lacks, and have a runner's agent there.

        Args:
            reached: the host.
            request: as the backend got it.
            deadline: until when it has to be done.
            place: hears when the runner is stopped, and when it is gone.

        Raises:
            BootError: with the phase that it came to, and what the host had to say. Nothing is left on the host.
        """
        host, bootstrap = reached.host, reached.bootstrap
        dial = self._dial(request, deadline)
        # The token is for the agent alone, and not for what it starts.
        described = request.parent._replace(token=None).encode()
        env = {**self._means.env, **host.env, VARIABLE: described, HOST_NAME: str(host)}
        reached.last_word = b"" if dial is None else LAST_WORD
        with deadline.ending(reached.connection.abandon):
            with reached.bootstrapping():
                bootstrap.run(reached.archive, env, dial)
            if dial is not None:
                with reached.telling():
                    _wait_until_dialed(bootstrap, request.parent.address)
        return reached.as_node(place, request.parent.address if self._means.is_direct else None)

    def _dial(self, request: BootRequest, deadline: Deadline) -> Mapping[str, object] | None:
        """What a runner is told that is to dial back. It gives up early enough to say why."""
        if not self._means.is_direct:
            return None
        failsafe = min(self._means.connect_timeout, SHARE_OF_DIALING * deadline.left())
        return {"parent": request.parent.encode(), "failsafe": failsafe}

    def _make_archive(self) -> Archive:
        """Made once: compiling takes longer than connecting."""
        # A pool whose serializer it is has loaded it by now.
        more = ("dill",) if "dill" in sys.modules else ()
        with self._archive_lock:
            if more not in self._archives:
                self._archives[more] = make_archive(*more)
            return self._archives[more]


def _open_channel(connection: Connection, patience: float) -> paramiko.Channel:
    try:
        return connection.transport.open_session(WINDOW, PACKET, timeout=patience)
    except Exception as error:
        text = f"{connection.target.label} lets us in, but runs no commands: {str(error) or type(error).__name__}"
        raise errors.BootError(text, "bootstrap") from error


def _wait_until_dialed(bootstrap: Bootstrap, address: str | None) -> None:
    host = bootstrap.host
    try:
        bootstrap.wait_until_dialed()
    except TimeoutError as error:
        text = f"{host} has a runner that did not get to {address} in the time that a boot has"
        raise errors.BootError(text, "connect") from error
    except OSError as error:
        text = f"{host}: the connection broke before its runner had dialed back: {error or type(error).__name__}"
        raise errors.BootError(text, "connect") from error
