"""The paramiko client's sessions: a command on a channel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

import paramiko

from dragonfly_executor import errors
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.ssh.auth import Credentials
from dragonfly_executor.backends.ssh.boot_deadline import SSHBootDeadline
from dragonfly_executor.backends.ssh.config import Target
from dragonfly_executor.backends.ssh.host_keys import SYSTEM_FILES, USER_FILES, HostKeys, fingerprint, parse_key
from dragonfly_executor.backends.ssh.hosts import SSHHost
from dragonfly_executor.backends.ssh.paramiko_connect import PACKET, WINDOW, Connector, SSHConnection
from dragonfly_executor.backends.ssh.settings import SSHSettings

SEND_SIZE = 32 * 1024
"""The largest packet that OpenSSH accepts, in bytes."""


class ChannelStream:
    """A command's input and output. `close` ends the input; the rest of the output can still be read.

    Args:
        channel: a paramiko channel.
        deadline: the deadline of reads and writes until `no_deadline` is called.
    """

    def __init__(self, channel: paramiko.Channel, deadline: Deadline) -> None:
        self._channel = channel
        self._deadline: Deadline | None = deadline
        self._unread = b""

    def no_deadline(self) -> None:
        """Let all later reads and writes wait without a timeout."""
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
        except (EOFError, paramiko.SSHException) as error:  # the read worked, but the window update could not be sent
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
        """Make the next `recv` return `data`."""
        self._unread = data + self._unread

    def close(self) -> None:
        """See `Stream`."""
        with suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.shutdown_write()

    def _set_timeout(self) -> None:
        if self._deadline is not None:
            self._channel.settimeout(self._deadline.step_timeout())


def _gone(error: Exception) -> ConnectionError:
    return ConnectionError(f"the connection is gone: {str(error) or type(error).__name__}")


class ChannelSession:
    """A command on a channel of a connection; see `SSHSession`."""

    def __init__(self, connection: SSHConnection, channel: paramiko.Channel, deadline: Deadline) -> None:
        self.label = connection.target.label
        self.command_stream = ChannelStream(channel, deadline)
        self._connection = connection
        self._channel = channel
        self.descriptors = connection.descriptors
        self.keep = connection.keep
        self.cut = connection.cut
        self.abandon = connection.abandon

    def run(self, command: str) -> None:
        """See `SSHSession`."""
        self._channel.exec_command(command)

    def stream(self) -> ChannelStream:
        """See `SSHSession`."""
        self.command_stream.no_deadline()
        return self.command_stream

    def read_stderr(self, size: int) -> bytes:
        """See `SSHSession`."""
        try:
            return bytes(self._channel.recv_stderr(size))
        except (EOFError, paramiko.SSHException):  # the read worked, but the window update could not be sent
            return b""

    def exit_status(self, timeout: float) -> int | None:
        """See `SSHSession`."""
        # The event is also set if the channel closes without a status, or the connection is lost.
        self._channel.status_event.wait(timeout)
        status: int = self._channel.exit_status
        return None if status < 0 else status

    def explain(self, said: str) -> errors.BootError | None:
        """Return None, as the connector has already raised the reason; see `SSHSession`."""
        return None

    def facts(self) -> Mapping[str, str]:
        """See `SSHSession`."""
        target, key = self._connection.target, self._connection.key
        return {
            "resolve": f"{target.address}, port {target.port}",
            "host key": "" if key is None else f"{key.get_name()} {fingerprint(key.asbytes())}",
            "auth": f"as {target.user}",
        }

    def end(self, last_word: bytes, timeout: float) -> None:
        """See `SSHSession`."""
        self._connection.cut_in(timeout)  # on a host that accepts no more data, even the end of input may block
        with suppress(OSError, EOFError, paramiko.SSHException):
            if last_word:
                self._channel.settimeout(timeout)
                self._channel.sendall(last_word)
            self._channel.shutdown_write()
        self.exit_status(timeout)
        # This also ends the channel. Closing the channel first could raise any error of the lost connection below
        # paramiko.
        self._connection.close()

    def close(self) -> None:
        """Do nothing, as `end` has closed the connection; see `SSHSession`."""


class ParamikoClient:
    """The client that uses paramiko and no program; see `Client`.

    Args:
        settings: the settings of the backend.
        resolve: returns the connection settings of a jump host, given as the user wrote it.

    Raises:
        ValueError: a key cannot be parsed.
        OSError: a key file cannot be read.
    """

    def __init__(self, settings: SSHSettings, resolve: Callable[[str, Deadline], Target]) -> None:
        login, keys = settings.login, settings.host_keys
        files = [*USER_FILES, *SYSTEM_FILES] if keys.files is None else keys.files
        self._connect_timeout = settings.connect_timeout
        self._connector = Connector(
            HostKeys(files, map(parse_key, keys.pinned), accept_any=keys.accept_any, configured=keys.files is None),
            Credentials(login.key_files, login.passphrase, login.password, use_agent=login.use_agent),
            settings.connect_timeout,
            resolve,
        )

    def open(self, host: SSHHost, target: Target, deadline: SSHBootDeadline) -> ChannelSession:
        """See `Client`."""
        connection = self._connector.connect(target, deadline)
        try:
            with deadline.ending(connection.abandon):
                return ChannelSession(
                    connection, _open_channel(connection, deadline.step_timeout(self._connect_timeout)), deadline
                )
        except BaseException:
            connection.close()
            raise


def _open_channel(connection: SSHConnection, timeout: float) -> paramiko.Channel:
    try:
        return connection.transport.open_session(WINDOW, PACKET, timeout=timeout)
    except Exception as error:
        text = (
            f"{connection.target.label} accepted the login, but runs no command: {str(error) or type(error).__name__}"
        )
        raise errors.BootError(text, "bootstrap") from error
