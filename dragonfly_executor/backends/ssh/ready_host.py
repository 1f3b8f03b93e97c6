"""A host on which Python has said its first word, and waits for what it lacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dragonfly_executor import errors
from dragonfly_executor.backends.ssh.bootstrap import Bootstrap
from dragonfly_executor.backends.ssh.node import SSHNode, StderrReader, describe, end

if TYPE_CHECKING:
    from dragonfly_executor.backends.ssh.archive import Archive
    from dragonfly_executor.backends.ssh.deadline import Deadline
    from dragonfly_executor.backends.ssh.host_table import Place
    from dragonfly_executor.backends.ssh.hosts import SSHHost
    from dragonfly_executor.backends.ssh.session import Session

SIGNALS = 128
"""What shells, and keepers, add to the number of the signal that ended somebody."""


class ReachedHost:
    """A session on a host, from its first command to a node, or to its end.

    Attributes:
        bootstrap: the talk with the host.
        last_word: what ends what runs there, if the end of its input does not.

    Args:
        host: the host.
        session: a session there; it is this object's from now on.
        python: the interpreter that was asked for, or None.
        archive: what the host has to have.
        deadline: until when the host has to have answered.
    """

    def __init__(
        self,
        host: SSHHost,
        session: Session,
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
        self.bootstrap = Bootstrap(str(host), session.talk, python)

    def close(self) -> None:
        """End what runs there, and the connection. Twice is fine, never raises."""
        if self._deadline.is_over:
            self.session.abandon()  # it would be waited for
        end(self.session, self._stderr, self.last_word)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """End it all if the block fails, and put what the host has printed into the error."""
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
        """The same for the talk with the host: whatever ends it is a `BootError`."""
        with self.telling():
            try:
                yield
            except Exception as error:  # whatever ended the connection, of paramiko's or of what it stands on
                raise self._bootstrap_error(error) from error

    def _bootstrap_error(self, error: Exception) -> errors.BootError:
        if self._deadline.is_over:
            text = f"{self.host} did not get a runner ready in the time that a boot has; boot_timeout= gives it more"
            return errors.BootTimeoutError(text, "bootstrap")
        if isinstance(error, errors.BootError):
            return error
        text = f"{self.host}: the connection broke during the bootstrap: {str(error) or type(error).__name__}"
        return errors.BootError(text, "bootstrap")

    def as_node(self, place: Place, address: str | None) -> SSHNode:
        """Return the node of a runner that has begun here.

        Args:
            place: hears when the runner is stopped, and when it is gone.
            address: where the runner has dialed back; None if it speaks on the session.
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
        self._stderr.pass_on(node.nothing_follows)
        return node

    def _facts(self, address: str | None) -> Mapping[str, str]:
        """What was found out on the way, by phase."""
        shipped = self.bootstrap.shipped
        return {
            **self.session.facts(),
            "python": self.bootstrap.interpreter,
            "bootstrap": f"sent {shipped} bytes" if shipped else "what a runner needs was there",
            **({"handshake": f"over a connection of its own, to {address}"} if address else {}),
        }


def _exit_status(session: Session) -> str:
    """What there is to tell of a command that printed nothing, because it was killed."""
    status = session.exit_status(0.0)
    return "" if status is None or status <= SIGNALS else f"the command ended with exit status {status}"
