"""`ReachedHost`: a host on which the bootstrap has started and waits for the archive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dragonfly_executor import errors
from dragonfly_executor.backends.ssh.bootstrap import Bootstrap
from dragonfly_executor.backends.ssh.node import SSHNode, StderrReader, describe, end

if TYPE_CHECKING:
    from dragonfly_executor.backends.deadline import Deadline
    from dragonfly_executor.backends.ssh.archive import Archive
    from dragonfly_executor.backends.ssh.host_table import HostPlace
    from dragonfly_executor.backends.ssh.hosts import SSHHost
    from dragonfly_executor.backends.ssh.session import SSHSession

SIGNALS = 128
"""The offset that shells, and the runner's supervisor process, add to a signal number in an exit status."""


class ReachedHost:
    """A session on a host, from its first command until it becomes a node or ends.

    Attributes:
        bootstrap: the bootstrap protocol with the host.
        last_word: stops the remote command if end of input does not.

    Args:
        host: the host.
        session: a session on the host. This object takes it over.
        python: the interpreter that the user asked for, or None.
        archive: the archive for the host.
        deadline: the deadline for the host's answers.
    """

    def __init__(
        self,
        host: SSHHost,
        session: SSHSession,
        python: str | None,
        archive: Archive,
        deadline: Deadline,
    ) -> None:
        self.host = host
        self.session = session
        self.archive = archive
        self.last_word = b""
        self._deadline = deadline
        self._stderr = StderrReader(session.read_stderr, str(host))
        self.bootstrap = Bootstrap(str(host), session.command_stream, python)

    def close(self) -> None:
        """Stop the remote command, and close the connection. May be called twice. Never raises."""
        if self._deadline.is_over:
            self.session.abandon()  # otherwise end() waits for the command
        end(self.session, self._stderr, self.last_word)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Close the session if the block raises, and add the host's output to the error."""
        try:
            yield
        except BaseException as error:
            self.close()
            if not isinstance(error, errors.BootError):
                raise
            output = describe(self.bootstrap.noise, self._stderr.tail())
            told = None if self._deadline.is_over or self.bootstrap.interpreter else self.session.explain(output)
            if told is not None:
                raise told from error
            error.output = output or _exit_status(self.session)
            raise

    @contextmanager
    def bootstrapping(self) -> Iterator[None]:
        """Close the session if the block raises, like `telling`, and turn any exception into a `BootError`."""
        with self.telling():
            try:
                yield
            except Exception as error:  # any error of the client or of the connection below it
                raise self._bootstrap_error(error) from error

    def _bootstrap_error(self, error: Exception) -> errors.BootError:
        if self._deadline.is_over:
            text = f"{self.host} had no runner ready within the boot timeout; raise boot_timeout="
            return errors.BootTimeoutError(text, "bootstrap")
        if isinstance(error, errors.BootError):
            return error
        text = f"{self.host}: the connection broke during the bootstrap: {str(error) or type(error).__name__}"
        return errors.BootError(text, "bootstrap")

    def as_node(self, place: HostPlace, address: str | None) -> SSHNode:
        """Return the node for the runner that has started here.

        Args:
            place: notified when the runner is being stopped and when it is gone.
            address: the address that the runner has dialed back to; None if the session is the link.
        """
        self.session.keep()
        node = SSHNode(
            self.session,
            self.session.stream() if address is None else None,
            self._stderr,
            noise=self.bootstrap.noise,
            slots=self.host.max_concurrency,
            place=place,
            deadline=self._deadline,
        )
        node.facts = self._facts(address)
        node.labels = self.host.labels
        self._stderr.pass_on(node.nothing_follows)
        return node

    def _facts(self, address: str | None) -> Mapping[str, str]:
        """Return the findings of the boot by phase."""
        shipped = self.bootstrap.shipped
        return {
            **self.session.facts(),
            "python": self.bootstrap.interpreter,
            "bootstrap": f"sent {shipped} bytes" if shipped else "all files were there",
            **({"handshake": f"over a connection of its own, to {address}"} if address else {}),
        }


def _exit_status(session: SSHSession) -> str:
    """Return the exit status of a killed command as text; "" if it was not killed or its status is unknown."""
    status = session.exit_status(0.0)
    return "" if status is None or status <= SIGNALS else f"the command ended with exit status {status}"
