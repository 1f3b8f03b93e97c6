"""The boot of a runner on one host: connect, run the bootstrap command, send missing files."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dragonfly_executor import errors
from dragonfly_executor.backends.agent_command import portable_options
from dragonfly_executor.backends.ssh.archive import Archive, make_archive
from dragonfly_executor.backends.ssh.boot_deadline import SSHBootDeadline
from dragonfly_executor.backends.ssh.bootstrap import Bootstrap, command
from dragonfly_executor.backends.ssh.hosts import SSHHost
from dragonfly_executor.backends.ssh.login_limit import FULL_TRIES, BusyError, pause_after
from dragonfly_executor.backends.ssh.node import LAST_WORD, SSHNode
from dragonfly_executor.backends.ssh.openssh_config import NO_FILE, SSHConfigResolver
from dragonfly_executor.backends.ssh.ready_host import ReachedHost
from dragonfly_executor.protocol.parent import VARIABLE
from dragonfly_executor.serialization.missing_module import HOST_NAME

if TYPE_CHECKING:
    from dragonfly_executor.backends.base import BootRequest
    from dragonfly_executor.backends.ssh.host_table import HostPlace
    from dragonfly_executor.backends.ssh.session import Client, SSHSession
    from dragonfly_executor.backends.ssh.settings import SSHSettings

SHARE_OF_DIALING = 0.8
"""The share of the remaining boot time that a runner may spend on dialing back. In the rest it can report a failure."""


class HostBooter:
    """Boots runners on hosts with the same settings. Any thread.

    Raises:
        ValueError: a key cannot be parsed.
        OSError: a key file cannot be read.
    """

    def __init__(self, settings: SSHSettings) -> None:
        self._settings = settings
        self._config = SSHConfigResolver(settings.config, has_parser=settings.client == "paramiko")
        self._archives: dict[tuple[str, ...], Archive] = {}
        self._archive_lock = threading.Lock()
        self._client = self._make_client()

    def _make_client(self) -> Client:
        if self._settings.client == "openssh":
            from dragonfly_executor.backends.ssh.openssh_session import ProgramClient

            where = self._config.options()
            return ProgramClient(self._settings, NO_FILE if where is None else where)
        # Imported late: hosts have no paramiko, and users of the other client need not have it.
        from dragonfly_executor.backends.ssh.paramiko_session import ParamikoClient

        return ParamikoClient(
            self._settings, lambda text, deadline: self._config.resolve(SSHHost(text), None, None, deadline)
        )

    def prepare(self) -> None:
        """Make the archive for hosts if it does not exist yet, before a boot's time begins."""
        self._make_archive()

    def reach(self, host: SSHHost, request: BootRequest, deadline: SSHBootDeadline) -> ReachedHost:
        """Connect to a host, and wait until Python there has sent its first line.

        Args:
            host: the host.
            request: the backend's boot request.
            deadline: the deadline for this step.

        Raises:
            BootError: with the phase that failed, and the output of the host.
        """
        settings, python = self._settings, host.python or self._settings.python
        archive = self._make_archive()
        target = self._config.resolve(host, settings.login.user, settings.login.port, deadline)
        line = command(python, archive.digest, settings.cache, request.timeout, portable_options(), os.urandom(8).hex())
        tries = 0
        while True:
            session = self._client.open(host, target, deadline)
            try:
                with deadline.ending(session.abandon):
                    reached = _talk_to(host, session, python, archive, deadline)
                    deadline.progress()
                    with reached.bootstrapping():
                        session.run(line)
                        reached.bootstrap.hear()
                    return reached
            except BusyError:
                tries += 1
                if tries >= FULL_TRIES or deadline.is_over:
                    raise
                with deadline.time.waiting():
                    deadline.pause(pause_after(tries))

    def finish(
        self, reached: ReachedHost, request: BootRequest, deadline: SSHBootDeadline, place: HostPlace
    ) -> SSHNode:
        """Send a host the files that it lacks, and start a runner's agent there.

        Args:
            reached: the host.
            request: the backend's boot request.
            deadline: the deadline for this step.
            place: notified when the runner is stopping and when it is gone.

        Raises:
            BootError: with the phase that failed, and the output of the host. Nothing is left on the host.
        """
        host, bootstrap = reached.host, reached.bootstrap
        dial = self._dial(request, deadline)
        # The token goes to the agent alone, not into the environment that child processes inherit.
        described = request.parent._replace(token=None).encode()
        env = {**self._settings.env, **host.env, VARIABLE: described, HOST_NAME: str(host)}
        reached.last_word = b"" if dial is None else LAST_WORD
        with deadline.ending(reached.session.abandon):
            with reached.bootstrapping():
                bootstrap.run(reached.archive, env, dial)
            if dial is not None:
                with reached.telling():
                    _wait_until_dialed(bootstrap, request.parent.address)
        return reached.as_node(place, request.parent.address if self._settings.is_direct else None)

    def _dial(self, request: BootRequest, deadline: SSHBootDeadline) -> Mapping[str, object] | None:
        """Return the instructions for a runner that dials back. Its timeout lets it report a failure in time."""
        if not self._settings.is_direct:
            return None
        failsafe = min(self._settings.connect_timeout, SHARE_OF_DIALING * deadline.step_timeout())
        return {"parent": request.parent.encode(), "failsafe": failsafe}

    def _make_archive(self) -> Archive:
        """Return the archive. It is made once, as compiling takes longer than connecting."""
        # A pool that serializes with dill has imported it before its first boot.
        more = ("dill",) if "dill" in sys.modules else ()
        with self._archive_lock:
            if more not in self._archives:
                self._archives[more] = make_archive(*more)
            return self._archives[more]


def _talk_to(
    host: SSHHost, session: SSHSession, python: str | None, archive: Archive, deadline: SSHBootDeadline
) -> ReachedHost:
    try:
        return ReachedHost(host, session, python, archive, deadline)
    except BaseException:
        session.abandon()
        session.end(b"", 0.0)
        session.close()
        raise


def _wait_until_dialed(bootstrap: Bootstrap, address: str | None) -> None:
    host = bootstrap.host
    try:
        bootstrap.wait_until_dialed()
    except TimeoutError as error:
        text = f"{host} has a runner that did not reach {address} within the boot timeout"
        raise errors.BootError(text, "connect") from error
    except OSError as error:
        text = f"{host}: the connection broke before its runner had dialed back: {error or type(error).__name__}"
        raise errors.BootError(text, "connect") from error
