"""`SSHNode`: a runner on a host, as the parent holds it."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from dragonfly_executor.backends.base import Node
from dragonfly_executor.backends.ssh.bootstrap import OUTPUT_SIZE

if TYPE_CHECKING:
    from dragonfly_executor.backends.base import Stream
    from dragonfly_executor.backends.deadline import Deadline
    from dragonfly_executor.backends.ssh.host_table import HostPlace
    from dragonfly_executor.backends.ssh.session import SSHSession

logger = logging.getLogger("dragonfly_executor")

STOP_TIMEOUT = 5.0
"""Seconds that a runner gets to exit once its link is closed."""
GIVEN_UP_TIMEOUT = 1.0
"""Seconds for the runner of a cancelled boot, or for a silent one that has dialed back: its host may still respond."""
JOIN_TIMEOUT = 5.0
MAX_LINE = 8 * 1024
LAST_WORD = b"end\n"
"""The command that stops a runner that has dialed back, as for such a runner end of input means a lost connection."""


class StderrReader:
    """Reads the stderr of a host's runner on a thread: keeps the end of it, and passes lines on to the parent's stderr.

    Args:
        read: returns the next bytes, and ``b""`` at the end.
        host: the prefix of each line.
    """

    def __init__(self, read: Callable[[int], bytes], host: str) -> None:
        self._read_some = read
        self._host = host
        self._tail = b""
        self._passes_on = False
        self._then: Callable[[], object] = lambda: None
        self._has_ended = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._read, name=f"dragonfly-stderr-{host}", daemon=True)
        self._thread.start()

    def pass_on(self, then: Callable[[], object]) -> None:
        """Print lines from now on. Before that, lines belong to the boot, whose error quotes them if it fails.

        Args:
            then: called on the reading thread once the stream has ended.
        """
        with self._lock:
            self._passes_on = True
            self._then = then
            has_ended = self._has_ended
        if has_ended:
            then()

    def tail(self) -> bytes:
        """Return the last bytes of the stream."""
        return self._tail

    def join(self, timeout: float) -> bool:
        """Wait until the stream has ended. Return True if it has, or False after `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _read(self) -> None:
        rest = b""
        try:
            while data := self._read_some(64 * 1024):
                self._tail = (self._tail + data)[-OUTPUT_SIZE:]
                with self._lock:
                    passes_on = self._passes_on
                if passes_on:
                    *lines, rest = (rest + data).split(b"\n")
                    if len(rest) > MAX_LINE:
                        lines, rest = [*lines, rest], b""
                    self._print(lines)
        except OSError:
            pass  # the connection is lost: the link reports that
        if rest:
            self._print([rest])
        with self._lock:
            self._has_ended = True
            then = self._then
        then()

    def _print(self, lines: list[bytes]) -> None:
        text = "".join(f"[{self._host}] {line.decode(errors='replace')}\n" for line in lines)
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):
            return  # stderr is closed or missing


class SSHNode(Node):
    """A host with a runner.

    Args:
        session: the command, and the connection that only it uses.
        stream: the command's input and output; None if the runner has dialed back.
        stderr: reads the command's stderr.
        noise: the output of the host before the bootstrap's first line.
        slots: the number of slots, or None.
        place: notified when the runner is being stopped and when it is gone.
        deadline: of the boot.
    """

    shares_disk = False

    def __init__(
        self,
        session: SSHSession,
        stream: Stream | None,
        stderr: StderrReader,
        *,
        noise: bytes = b"",
        slots: int | None = None,
        place: HostPlace | None = None,
        deadline: Deadline | None = None,
    ) -> None:
        self.stream = stream
        self.slots = slots
        self.host = session.label
        self._session = session
        self._stderr = stderr
        self._noise = noise
        self._place = place
        self._deadline = deadline
        self._lock = threading.Lock()
        self._stopped = False

    def __repr__(self) -> str:
        return f"SSHNode({self.host!r})"

    def nothing_follows(self) -> None:
        """Warn at the end of stderr if the SSH connection was lost but the runner, which has dialed back, goes on."""
        if self.stream is not None or self._stopped:
            return
        if self._session.exit_status(STOP_TIMEOUT) is None and not self._stopped:
            logger.warning("the SSH connection to %s broke; its runner goes on, as it has a link of its own", self.host)

    def descriptors(self) -> list[int]:
        """Return the descriptors of the SSH connection; see `Node`."""
        return self._session.descriptors()

    def stop(self) -> None:
        """Close the link, wait until the runner has exited or the time is over, and close the connection."""
        with self._lock:
            stopped, self._stopped = self._stopped, True
        if stopped:
            return
        if self._place is not None:
            self._place.leaving()
        is_given_up = self._deadline is not None and self._deadline.is_cancelled
        timeout = GIVEN_UP_TIMEOUT if is_given_up or self.is_silent else STOP_TIMEOUT
        if self.is_silent and self.stream is not None:
            # The link is this connection, and it is silent, so an orderly end gets no answer either.
            self._session.abandon()
        try:
            end(self._session, self._stderr, b"" if self.stream else LAST_WORD, timeout)
        finally:
            if self._place is not None:
                self._place.release()

    def output(self) -> str:
        """Return the last output of the host before the bootstrap, and the last output of the runner's stderr."""
        return describe(self._noise, self._stderr.tail())


def end(session: SSHSession, stderr: StderrReader, last_word: bytes = b"", timeout: float | None = None) -> None:
    """Stop a command, and close the connection that only it uses.

    Args:
        session: the session of the command.
        stderr: reads the command's stderr.
        last_word: stops the runner if end of input does not.
        timeout: seconds that the runner gets to exit; None for `STOP_TIMEOUT`.
    """
    session.end(last_word, STOP_TIMEOUT if timeout is None else timeout)
    stderr.join(JOIN_TIMEOUT)
    session.close()


def describe(noise: bytes, stderr: bytes) -> str:
    """Return the output of a host as text, for a `BootError`."""
    parts = [part.decode(errors="replace").strip() for part in (noise, stderr)]
    return "\n".join(part for part in parts if part)[-2 * OUTPUT_SIZE :]
