"""A runner on a host, as the parent holds it."""

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
    from dragonfly_executor.backends.ssh.deadline import Deadline
    from dragonfly_executor.backends.ssh.host_table import Place
    from dragonfly_executor.backends.ssh.session import Session

logger = logging.getLogger("dragonfly_executor")

STOP_PATIENCE = 5.0
"""Seconds that a runner gets to end by itself once its link has."""
GIVEN_UP_PATIENCE = 1.0
"""The same for a runner whose boot was given up, and one that has dialed back and is silent: its host may answer."""
JOIN_PATIENCE = 5.0
MAX_LINE = 8 * 1024
LAST_WORD = b"end\n"
"""What ends a runner that has dialed back. The end of its input alone means that the connection broke."""


class StderrReader:
    """Reads what a host's runner prints outside of calls: keeps the end of it, and passes lines on to this stderr.

    Args:
        read: returns what comes next, and nothing at the end.
        host: what to write before each line.
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
        """From now on, lines are for the user; what comes in a boot is told by its error, should it fail.

        Args:
            then: is called when no more will come, on the thread that reads.
        """
        with self._lock:
            self._passes_on = True
            self._then = then
            has_ended = self._has_ended
        if has_ended:
            then()

    def tail(self) -> bytes:
        """The last that came."""
        return self._tail

    def join(self, timeout: float) -> bool:
        """Wait until it has read all; whether it has."""
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
            pass  # the connection is gone: that is told elsewhere
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
            return  # it is closed, or there is none


class SSHNode(Node):
    """A host with a runner on it.

    Args:
        session: the command, and the connection that it has for itself.
        stream: the command's input and output; None where the runner has dialed back.
        stderr: reads the rest of what it says.
        noise: what the host said before the runner did.
        slots: calls at once there, or None.
        place: hears when the runner is being stopped, and when it is gone.
        deadline: of the boot.
    """

    shares_disk = False

    def __init__(
        self,
        session: Session,
        stream: Stream | None,
        stderr: StderrReader,
        *,
        noise: bytes = b"",
        slots: int | None = None,
        place: Place | None = None,
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
        """The command has ended, or the connection has; a runner that has dialed back may be there still."""
        if self.stream is not None or self._stopped:
            return
        if self._session.exit_status(STOP_PATIENCE) is None and not self._stopped:
            logger.warning("the SSH connection to %s broke; its runner is there as long as its link", self.host)

    def descriptors(self) -> list[int]:
        """See `Node`."""
        return self._session.descriptors()

    def stop(self) -> None:
        """End the link, wait until the runner has gone, or for long enough, and end the connection."""
        with self._lock:
            stopped, self._stopped = self._stopped, True
        if stopped:
            return
        if self._place is not None:
            self._place.leaving()
        is_given_up = self._deadline is not None and self._deadline.is_given_up
        patience = GIVEN_UP_PATIENCE if is_given_up or self.is_silent else STOP_PATIENCE
        if self.is_silent and self.stream is not None:
            # The link is this connection, from which nothing comes: nothing that is said on it is answered either.
            self._session.abandon()
        try:
            end(self._session, self._stderr, b"" if self.stream else LAST_WORD, patience)
        finally:
            if self._place is not None:
                self._place.release()

    def output(self) -> str:
        """What the host printed before the runner spoke, and the last of the runner's stderr."""
        return describe(self._noise, self._stderr.tail())


def end(session: Session, stderr: StderrReader, last_word: bytes = b"", patience: float | None = None) -> None:
    """End a command and the connection that it has for itself.

    Args:
        session: the command's.
        stderr: reads what it says.
        last_word: what ends its runner, if the end of its input does not.
        patience: seconds that the runner gets to end by itself; None for `STOP_PATIENCE`.
    """
    session.end(last_word, STOP_PATIENCE if patience is None else patience)
    stderr.join(JOIN_PATIENCE)
    session.close()


def describe(noise: bytes, stderr: bytes) -> str:
    """What a host has printed, as a text for a `BootError`."""
    parts = [part.decode(errors="replace").strip() for part in (noise, stderr)]
    return "\n".join(part for part in parts if part)[-2 * OUTPUT_SIZE :]
