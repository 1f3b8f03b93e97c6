"""A runner on a host, as the parent holds it."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import paramiko

from dragonfly_executor.backends.base import Node
from dragonfly_executor.backends.ssh.bootstrap import OUTPUT_SIZE
from dragonfly_executor.backends.ssh.connect import Connection
from dragonfly_executor.backends.ssh.deadline import Deadline

if TYPE_CHECKING:
    from dragonfly_executor.backends.ssh.places import Place

logger = logging.getLogger("dragonfly_executor")

STOP_PATIENCE = 5.0
"""Seconds that a runner gets to end by itself once its link has."""
GIVEN_UP_PATIENCE = 1.0
"""The same for a runner whose boot was given up, and one that has dialed back and is silent: its host may answer."""
JOIN_PATIENCE = 5.0
SEND_SIZE = 32 * 1024
"""What OpenSSH takes in one packet."""
MAX_LINE = 8 * 1024
LAST_WORD = b"end\n"
"""What ends a runner that has dialed back. The end of its input alone means that the connection broke."""


class ChannelStream:
    """A command's input and output. Its `close` says that nothing follows; what the command still says can be read.

    Args:
        channel: paramiko's.
        deadline: until when the host has to have answered, up to `no_deadline`.
    """

    def __init__(self, channel: paramiko.Channel, deadline: Deadline) -> None:
        self._channel = channel
        self._deadline: Deadline | None = deadline
        self._unread = b""

    def no_deadline(self) -> None:
        """From now on wait for as long as it takes."""
        self._deadline = None
        self._channel.settimeout(None)

    def recv(self, size: int, /) -> bytes:
        """See `Stream`."""
        if self._unread:
            data, self._unread = self._unread[:size], self._unread[size:]
            return data
        self._set_timeout()
        try:
            return bytes(self._channel.recv(size))
        except (EOFError, paramiko.SSHException) as error:  # it has read, and could not tell the host that it has
            raise _gone(error) from error

    def sendall(self, data: bytes, /) -> None:
        """See `Stream`."""
        view = memoryview(data)
        while view:
            self._set_timeout()
            try:
                sent = self._channel.send(bytes(view[:SEND_SIZE]))
            except (EOFError, paramiko.SSHException) as error:
                raise _gone(error) from error
            if not sent:
                raise ConnectionError("the channel is closed")
            view = view[sent:]

    def unread(self, data: bytes) -> None:
        """Let the next `recv` return this."""
        self._unread = data + self._unread

    def close(self) -> None:
        """See `Stream`."""
        with suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.shutdown_write()

    def _set_timeout(self) -> None:
        if self._deadline is not None:
            self._channel.settimeout(self._deadline.left())


def _gone(error: Exception) -> ConnectionError:
    return ConnectionError(f"the connection is gone: {str(error) or type(error).__name__}")


class StderrReader:
    """Reads what a host's runner prints outside of calls: keeps the end of it, and passes lines on to this stderr.

    Args:
        channel: paramiko's.
        host: what to write before each line.
    """

    def __init__(self, channel: paramiko.Channel, host: str) -> None:
        self._channel = channel
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
            while data := self._channel.recv_stderr(64 * 1024):
                self._tail = (self._tail + data)[-OUTPUT_SIZE:]
                with self._lock:
                    passes_on = self._passes_on
                if passes_on:
                    *lines, rest = (rest + data).split(b"\n")
                    if len(rest) > MAX_LINE:
                        lines, rest = [*lines, rest], b""
                    self._print(lines)
        except (OSError, EOFError, paramiko.SSHException):
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
        connection: to the host.
        channel: the command's.
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
        connection: Connection,
        channel: paramiko.Channel,
        stream: ChannelStream | None,
        stderr: StderrReader,
        *,
        noise: bytes = b"",
        slots: int | None = None,
        place: Place | None = None,
        deadline: Deadline | None = None,
    ) -> None:
        self.stream = stream
        self.slots = slots
        self.host = connection.target.label
        self._connection = connection
        self._channel = channel
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
        if self.stream is None and not self._stopped:
            self._channel.status_event.wait(STOP_PATIENCE)
            if self._channel.exit_status < 0 and not self._stopped:
                logger.warning("the SSH connection to %s broke; its runner is there as long as its link", self.host)

    def descriptors(self) -> list[int]:
        """See `Node`."""
        return self._connection.descriptors()

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
            self._connection.abandon()
        try:
            end(self._connection, self._channel, self._stderr, b"" if self.stream else LAST_WORD, patience)
        finally:
            if self._place is not None:
                self._place.release()

    def output(self) -> str:
        """What the host printed before the runner spoke, and the last of the runner's stderr."""
        return describe(self._noise, self._stderr.tail())


def end(
    connection: Connection,
    channel: paramiko.Channel,
    stderr: StderrReader,
    last_word: bytes = b"",
    patience: float | None = None,
) -> None:
    """End a command and the connection that it has for itself.

    Args:
        connection, channel, stderr: the command's.
        last_word: what ends its runner, if the end of its input does not.
        patience: seconds that the runner gets to end by itself; None for `STOP_PATIENCE`.
    """
    patience = STOP_PATIENCE if patience is None else patience
    connection.cut_in(patience)  # a host that takes nothing more cannot even be told so
    with suppress(OSError, EOFError, paramiko.SSHException):
        if last_word:
            channel.settimeout(patience)
            channel.sendall(last_word)
        channel.shutdown_write()
    # Set as well when the channel closes without a status, or the connection is gone.
    channel.status_event.wait(patience)
    # That ends the channel as well; to say so to a host that is gone would raise whatever paramiko stands on.
    connection.close()
    stderr.join(JOIN_PATIENCE)


def describe(noise: bytes, stderr: bytes) -> str:
    """What a host has printed, as a text for a `BootError`."""
    parts = [part.decode(errors="replace").strip() for part in (noise, stderr)]
    return "\n".join(part for part in parts if part)[-2 * OUTPUT_SIZE :]
