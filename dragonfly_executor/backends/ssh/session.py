"""The interface that both SSH clients implement: the settings of a backend, and a command that runs on a host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from dragonfly_executor.backends.ssh.bootstrap import CommandStream

if TYPE_CHECKING:
    from dragonfly_executor.backends.base import Stream
    from dragonfly_executor.backends.ssh.boot_deadline import SSHBootDeadline
    from dragonfly_executor.backends.ssh.config import Target
    from dragonfly_executor.backends.ssh.hosts import SSHHost
    from dragonfly_executor.errors import BootError


class SSHSession(Protocol):
    """A command on a host, and the connection that only the command uses.

    Attributes:
        label: the host as the user wrote it.
        command_stream: the input and output of the command during the bootstrap.
    """

    @property
    def label(self) -> str: ...

    @property
    def command_stream(self) -> CommandStream: ...

    def run(self, command: str) -> None:
        """Run the command. A failure may show only when its output is read."""

    def stream(self) -> Stream:
        """Return the input and output of the command as the agent's link. It has no timeout any more."""
        ...

    def read_stderr(self, size: int) -> bytes:
        """Return 1 to `size` bytes of the command's stderr, or ``b""`` at the end."""
        ...

    def exit_status(self, timeout: float) -> int | None:
        """Return the exit status of the command. None if it is unknown after `timeout` seconds, or stays unknown."""

    def explain(self, said: str) -> BootError | None:
        """Return the error of a failed connection if the text from stderr reports one, otherwise None."""

    def facts(self) -> Mapping[str, str]:
        """Return the findings of the connection by boot phase."""
        ...

    def descriptors(self) -> list[int]:
        """Return the descriptors that hold the connection open."""
        ...

    def keep(self) -> None:
        """Lift the time limit of the connection."""

    def cut(self) -> None:
        """Shut the connection down. Any thread; does not block."""

    def abandon(self) -> None:
        """Shut the connection down, and kill the programs below it. Any thread; does not block."""

    def end(self, last_word: bytes, timeout: float) -> None:
        """Close the command's input, wait until it ends, and close the connection. May be called twice. Never raises.

        Args:
            last_word: bytes to send before the input is closed.
            timeout: seconds for the command to end.
        """

    def close(self) -> None:
        """Release the resources that were kept for reading the rest of stderr. May be called twice. Never raises."""


class Client(Protocol):
    """An SSH client."""

    def open(self, host: SSHHost, target: Target, deadline: SSHBootDeadline) -> SSHSession:
        """Return a session on a host, without a command yet.

        Args:
            host: the host as the user wrote it.
            target: its connection settings.
            deadline: of the boot.

        Raises:
            HostKeyError: the key of the host or of a jump host is unknown or wrong.
            BootError: the host cannot be reached, refuses the login, or runs no commands.
        """
        ...
