"""An SSH agent with a timeout: an agent that is frozen or waits for its user cannot block a boot for good."""

from __future__ import annotations

import errno
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path

from paramiko.agent import AgentSSH

from dragonfly_executor.backends.deadline import Deadline

LIST_TIMEOUT = 5.0
"""Seconds for the list of keys. An agent does not ask its user for that."""
CONNECT_SLICE = 0.5
"""Seconds after which a connect to an agent with a full backlog returns, as no other thread can interrupt it."""


class SSHAgent(AgentSSH):  # type: ignore[misc]  # paramiko has no types
    """The keys of an SSH agent. The caller must `close` it.

    Args:
        path: the path of the agent's socket.
        deadline: of the boot.

    Raises:
        paramiko.SSHException, OSError: the agent does not answer, or its answer is invalid.
    """

    def __init__(self, path: str, deadline: Deadline) -> None:
        super().__init__()
        self._sock = _connect(path, Deadline(deadline.step_timeout(LIST_TIMEOUT)), deadline)
        try:
            with deadline.ending(self.cut):
                self._sock.settimeout(deadline.step_timeout(LIST_TIMEOUT))
                self._connect(self._sock)  # pyright: ignore[reportAttributeAccessIssue]  # not in its stubs
        except BaseException:
            self._sock.close()
            raise

    def allow(self, seconds: float) -> None:
        """Set the timeout for each later answer of the agent. A signature may need the user's confirmation."""
        self._sock.settimeout(seconds)

    def cut(self) -> None:
        """Shut the connection down, so that a thread that waits for an answer fails. Any thread; does not block."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection to the agent."""
        self._close()  # pyright: ignore[reportAttributeAccessIssue]  # not in its stubs
        self._sock.close()


def agent_path(said: str | None) -> str | None:
    """Return the path of the agent's socket, or None for no agent.

    Args:
        said: the value of IdentityAgent: a path, "none", "SSH_AUTH_SOCK", or "$" and a variable's name; None if it is
            not set.
    """
    if said is None or said == "SSH_AUTH_SOCK":
        return os.environ.get("SSH_AUTH_SOCK")
    if said.lower() == "none":
        return None
    if said.startswith("$") and not said.startswith("${"):
        return os.environ.get(said[1:])
    return str(Path(said).expanduser())


def _connect(path: str, until: Deadline, deadline: Deadline) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Blocking, with the kernel's timeout: a non-blocking connect fails at once if the backlog is full.
        seconds = int(CONNECT_SLICE)
        sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", seconds, int((CONNECT_SLICE - seconds) * 1e6))
        )
        while True:
            try:
                sock.connect(path)
                return sock
            except OSError as error:
                if error.errno != errno.EAGAIN or until.is_over or deadline.is_over:
                    raise
    except BaseException:
        sock.close()
        raise
