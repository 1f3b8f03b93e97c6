"""Child processes of a boot. Any thread can kill one, together with its process group."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, NamedTuple

from dragonfly_executor.backends.deadline import Deadline

END_TIMEOUT = 1.0
"""Seconds between SIGTERM and SIGKILL."""


class Program:
    """A program in a process group of its own. One socket is its input and its output.

    Attributes:
        sock: the parent's end of that socket.

    Args:
        command: the program and its arguments.
        stderr: the target of its stderr; None for the parent's own.
        env: its environment; None for the parent's own.

    Raises:
        OSError: the program cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        stderr: IO[bytes] | int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.sock, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=stderr,
                    env=env,
                    # Ctrl-C at the terminal must reach only the parent, which decides what to stop.
                    start_new_session=True,
                )
            except BaseException:
                self.sock.close()
                raise
        self._lock = threading.Lock()
        self._killed = False
        """True once no more signals are sent, as the process id may soon belong to another process."""

    def cut(self) -> None:
        """Shut the socket down, so that a thread that reads from it returns. Any thread; does not block."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        """Shut the socket down and kill the process group. Any thread; does not block."""
        self.cut()
        with self._lock:
            if not self._killed:
                self._killed = True
                self._signal(signal.SIGKILL)

    def end(self, timeout: float = END_TIMEOUT, *, ask: bool = True) -> int:
        """End the program, and return its exit code.

        Args:
            timeout: seconds until the rest of its process group is killed.
            ask: whether to send SIGTERM first. It is not needed if the program is about to exit.
        """
        self.sock.close()
        with self._lock:
            if ask and not self._killed:
                self._signal(signal.SIGTERM)
        self._wait(timeout)
        with self._lock:
            if not self._killed:
                self._killed = True
                # Also if the program itself has ended: its child processes are in its group.
                self._signal(signal.SIGKILL)
        return self._process.wait()

    def status(self, timeout: float) -> int | None:
        """Return the exit code, negative for a signal; None if the program still runs after `timeout` seconds."""
        self._wait(timeout)
        if self._process.returncode is not None:
            return self._process.returncode
        found = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def _wait(self, timeout: float) -> None:
        """Wait until the program ends or is killed. It stays a zombie, so that its process id is not reused."""
        if self._process.returncode is not None or not hasattr(os, "pidfd_open"):
            # Without a pidfd, a wait with a timeout must reap the process.
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
                self._killed = True
            return
        fd = os.pidfd_open(self._process.pid)
        try:
            ended = select.poll()
            ended.register(fd, select.POLLIN)
            ended.poll(timeout * 1000)
        finally:
            os.close(fd)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):  # macOS refuses to signal a group of zombies
            os.killpg(self._process.pid, number)


class ProgramResult(NamedTuple):
    """The output and the exit status of a program.

    Attributes:
        status: its exit code; negative for a signal.
        output, errors: its stdout and its stderr.
    """

    status: int
    output: str
    errors: str


def answer_of(
    command: Sequence[str],
    deadline: Deadline,
    limit: float,
    text: bytes = b"",
    env: Mapping[str, str] | None = None,
) -> ProgramResult:
    """Run a program to its end, and return its output. Kill it if the boot is cancelled.

    Args:
        command: the program and its arguments.
        deadline: of the boot.
        limit: seconds that the program may take.
        text: what the program reads on its stdin, at most some KiB: it has to fit into the socket's buffer.
        env: the program's environment; None for this process's own.

    Raises:
        TimeoutError: the program has not ended in time, or the boot was cancelled.
        OSError: the program cannot be started.
    """
    pieces: list[bytes] = []
    in_time = False
    with tempfile.TemporaryFile() as errors:
        program = Program(command, errors, env)
        allowed = deadline.step_timeout(limit)
        until = Deadline(allowed)
        try:
            with deadline.ending(program.kill), suppress(TimeoutError, ConnectionError):
                # A program may end before it has read its input. Its output counts all the same.
                with suppress(BrokenPipeError):
                    program.sock.sendall(text)
                program.sock.shutdown(socket.SHUT_WR)
                # Such a program's stream ends with ECONNRESET, after its output.
                with suppress(ConnectionResetError):
                    while data := _some(program.sock, until):
                        pieces.append(data)
                in_time = not until.is_over and not deadline.is_cancelled
        finally:
            status = program.end(until.step_timeout(END_TIMEOUT), ask=False)
        if not in_time:
            raise TimeoutError(f"{command[0]} did not answer within {allowed:.3g} s")
        errors.seek(0)
        return ProgramResult(status, b"".join(pieces).decode(errors="replace"), errors.read().decode(errors="replace"))


def _some(sock: socket.socket, until: Deadline) -> bytes:
    sock.settimeout(until.step_timeout())
    return sock.recv(65536)
