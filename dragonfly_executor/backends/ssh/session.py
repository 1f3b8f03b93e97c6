"""What is the same whichever client speaks SSH: the means of a backend, and a command that runs on a host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dragonfly_executor.backends.ssh.bootstrap import Talk

if TYPE_CHECKING:
    from dragonfly_executor.backends.base import Stream
    from dragonfly_executor.backends.ssh.config import Target
    from dragonfly_executor.backends.ssh.deadline import Deadline
    from dragonfly_executor.backends.ssh.hosts import SSHHost
    from dragonfly_executor.errors import BootError


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
    client: str

    def __repr__(self) -> str:
        # Neither password nor passphrase, nor what stands in env.
        return f"Means(config={self.config!r}, user={self.user!r}, port={self.port!r})"


class Session(Protocol):
    """A command on a host, and the connection that the command has for itself.

    Attributes:
        label: the host, as the user wrote it.
        talk: the input and output of the command, until there is an agent.
    """

    @property
    def label(self) -> str: ...

    @property
    def talk(self) -> Talk: ...

    def run(self, command: str) -> None:
        """Run the command. What goes wrong may be told only by what is read from it."""

    def stream(self) -> Stream:
        """Return the input and output of the command for its agent. Nothing limits its time any more."""

    def read_stderr(self, size: int) -> bytes:
        """Return what the command prints to its stderr; nothing at the end."""

    def exit_status(self, patience: float) -> int | None:
        """Return how the command has ended; None if that is not known within so many seconds, or never will be."""

    def explain(self, said: str) -> BootError | None:
        """Return why there was no connection, if what was printed to stderr says so."""

    def facts(self) -> Mapping[str, str]:
        """Return what was found out on the way, by phase."""

    def descriptors(self) -> list[int]:
        """Return what holds the connection open."""

    def keep(self) -> None:
        """The connection has no limit of time any more."""

    def cut(self) -> None:
        """Let nothing more through. Any thread; does not block."""

    def abandon(self) -> None:
        """The same, and kill the programs that the connection stands on. Any thread; does not block."""

    def end(self, last_word: bytes, patience: float) -> None:
        """End the input of the command, wait for its end, and end the connection. Twice is fine, never raises.

        Args:
            last_word: what is said before.
            patience: seconds for the command to end.
        """

    def close(self) -> None:
        """Let go of what was held to read the last of the stderr. Twice is fine, never raises."""


class Client(Protocol):
    """Speaks SSH."""

    def open(self, host: SSHHost, target: Target, deadline: Deadline) -> Session:
        """Return a session on a host, in which no command runs yet.

        Args:
            host: as the user wrote it.
            target: what the configuration says of the host.
            deadline: of the boot.

        Raises:
            HostKeyError: the host, or one on the way, is not known, or not by this key.
            BootError: the host cannot be reached, lets nobody in, or runs nothing.
        """
