"""The paramiko client's connections, directly, through jump hosts or a proxy command: dial, verify keys, log in."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

import paramiko

from dragonfly_executor.backends.ssh.auth import Credentials
from dragonfly_executor.backends.ssh.boot_deadline import SSHBootDeadline
from dragonfly_executor.backends.ssh.config import Target
from dragonfly_executor.backends.ssh.happy_eyeballs import addresses, connect_first
from dragonfly_executor.backends.ssh.host_keys import HostKeys
from dragonfly_executor.backends.ssh.login_limit import FULL_TRIES, SAYS_FULL, TRIES, LoginLimit, pause_after
from dragonfly_executor.backends.ssh.proxies import JumpChannel, ProxyProgram, QuickAckSocket
from dragonfly_executor.errors import BootError, HostKeyError

if TYPE_CHECKING:
    from typing import TypeAlias

    Through: TypeAlias = "SSHConnection | ProxyProgram | None"

WINDOW = 2 * 1024 * 1024
"""The maximum number of bytes in flight to the parent. On a slow link, later data waits behind them."""
PACKET = 64 * 1024
"""Bytes of the largest packet that the host may send. Each packet costs time; larger ones cost fresh memory."""
FAST_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
JOIN_TIMEOUT = 5.0
MAX_JUMPS = 8
LOG_CHANNEL = "dragonfly_executor.paramiko"
# Our errors report each failure. paramiko also logs a traceback for it, which Python prints if logging is not
# configured.
logging.getLogger(LOG_CHANNEL).addHandler(logging.NullHandler())
if logging.getLogger(LOG_CHANNEL).level == logging.NOTSET:
    logging.getLogger(LOG_CHANNEL).setLevel(logging.CRITICAL)


class SSHConnection:
    """An SSH connection on which commands can run. It owns the connection or program below it.

    Attributes:
        transport: the paramiko transport.
        target: the host.
        key: the host key, once the host has proved that it has it; None before that.
    """

    def __init__(self, target: Target, transport: paramiko.Transport, through: Through) -> None:
        self.target = target
        self.key: paramiko.PKey | None = None
        self.transport = transport
        self._through = through
        self._limit: threading.Timer | None = None

    def descriptors(self) -> list[int]:
        """Return the descriptors that hold the connection open."""
        if self._through is not None:
            return self._through.descriptors()
        fd: int = self.transport.sock.fileno()
        return [fd] if fd >= 0 else []

    def cut_in(self, seconds: float) -> None:
        """Shut the connection down after `seconds`, unless `keep` or `close` is called first.

        paramiko waits for a silent host in places that accept no timeout. Some of these places hold locks that closing
        the connection needs as well.
        """
        self.keep()
        limit = threading.Timer(seconds, self.cut)
        limit.name = f"dragonfly-ssh-limit-{self.target.label}"
        limit.daemon = True
        try:
            limit.start()
        except RuntimeError:
            # At interpreter exit, Python 3.12 starts no threads. The pool's own timeouts apply.
            return
        self._limit = limit

    def keep(self) -> None:
        """Cancel the timer of `cut_in`."""
        limit, self._limit = self._limit, None
        if limit is not None:
            limit.cancel()
            limit.join()

    def cut(self) -> None:
        """Shut the connection down, so that threads that wait for it get an error. Any thread; takes no locks."""
        if self._through is not None:
            self._through.cut()
            return
        with suppress(OSError):
            self.transport.sock.shutdown(socket.SHUT_RDWR)

    def abandon(self) -> None:
        """Shut the connection down, and kill the proxy command below it, if any. Any thread; does not block."""
        if self._through is not None:
            self._through.abandon()
            return
        self.cut()

    def close(self) -> None:
        """Close the connection and all connections below it. May be called twice. Never raises."""
        self.keep()
        self.cut()
        _end(self.transport)
        if self._through is not None:
            self._through.close()


class Connector:
    """Makes connections.

    Args:
        host_keys: the host keys to trust.
        credentials: the user's credentials.
        connect_timeout: seconds for each of these steps: connect, key exchange, login.
        resolve: returns the connection settings of a jump host, given as the user wrote it.
    """

    def __init__(
        self,
        host_keys: HostKeys,
        credentials: Credentials,
        connect_timeout: float,
        resolve: Callable[[str, SSHBootDeadline], Target],
    ) -> None:
        self._host_keys = host_keys
        self._credentials = credentials
        self._connect_timeout = connect_timeout
        self._resolve = resolve
        self._limits: dict[tuple[str, int, str | None], LoginLimit] = {}
        self._lock = threading.Lock()
        """Guards `_limits`."""

    def connect(self, target: Target, deadline: SSHBootDeadline) -> SSHConnection:
        """Connect to a host. The connection is shut down at the deadline, unless its `keep` is called before.

        Raises:
            HostKeyError: the key of the host or of a jump host is unknown or wrong.
            BootError: the host cannot be reached or refuses the login; phase "resolve", "connect" or "auth".
        """
        connection = self._connect(target, deadline, self._credentials, MAX_JUMPS)
        connection.cut_in(deadline.step_timeout())
        return connection

    def _connect(
        self, target: Target, deadline: SSHBootDeadline, credentials: Credentials, jumps: int
    ) -> SSHConnection:
        """Connect, with retries while the server refuses because of other logins."""
        with self._lock:
            limit = self._limits.setdefault((target.address, target.port, target.proxy_command), LoginLimit())
        tries = 0
        while True:
            try:
                with limit.login(deadline):
                    connection = self._log_in(target, deadline, credentials, jumps)
            except _ClosedAtOnceError as error:
                tries += 1
                is_full = limit.refused() or error.says_full
                if tries >= (FULL_TRIES if is_full else TRIES) or deadline.is_over:
                    raise BootError(error.args[0], error.phase) from error.__cause__
                with deadline.time.waiting() if is_full else nullcontext():
                    deadline.pause(pause_after(tries))
            else:
                limit.succeeded()
                return connection

    def _log_in(self, target: Target, deadline: SSHBootDeadline, credentials: Credentials, jumps: int) -> SSHConnection:
        sock, through = self._reach(target, deadline, jumps)
        transport = self._transport(target, sock)
        connection = SSHConnection(target, transport, through)
        try:
            with deadline.ending(connection.abandon):
                connection.key = self._agree(target, transport, deadline)
                deadline.progress()
                credentials.log_in(transport, target, deadline, self._step_timeout(target))
        except BaseException:
            connection.close()
            raise
        deadline.progress()
        transport.set_keepalive(target.keepalive)
        return connection

    def _step_timeout(self, target: Target) -> float:
        """Return the seconds for each step of connecting."""
        return target.connect_timeout or self._connect_timeout

    # -- connecting to the sshd ----------------------------------------------------------------------------------------

    def _reach(self, target: Target, deadline: SSHBootDeadline, jumps: int) -> tuple[Any, Through]:
        """Return a socket-like object that leads to the host's sshd, and the connection or program below it."""
        if target.proxy_command is not None:
            proxy = ProxyProgram(target)
            return proxy.sock, proxy
        if not target.jumps:
            return self._dial(target, deadline), None
        jump = self._jump(target, deadline, jumps)
        try:
            return self._channel_through(jump, target, deadline), jump
        except BaseException:
            jump.close()
            raise

    def _dial(self, target: Target, deadline: SSHBootDeadline) -> socket.socket:
        timeout = self._step_timeout(target)
        try:
            found = addresses(target.address, target.port, deadline, timeout)
        except (OSError, UnicodeError) as error:
            text = f"{target.label}: there is no address for {target.address!r}: {error}"
            raise BootError(text, "resolve") from error
        try:
            sock = connect_first(found, deadline, timeout)
        except OSError as error:
            where = f"{target.address} port {target.port}"
            raise BootError(f"{target.label}: cannot connect to {where}: {error}", "connect") from error
        deadline.progress()
        # Calls are small and wait for results, so send at once. Keepalive and TCP_USER_TIMEOUT detect a dead peer, also
        # while data is in flight.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)
        return QuickAckSocket(sock)

    def _jump(self, target: Target, deadline: SSHBootDeadline, jumps: int) -> SSHConnection:
        """Return a connection to the last jump host."""
        if jumps <= 0:
            text = f"{target.label}: more than {MAX_JUMPS} jump hosts; check ProxyJump for a cycle"
            raise BootError(text, "resolve")
        *earlier, last = target.jumps
        on_the_way = self._resolve(last, deadline)
        if earlier:
            on_the_way = on_the_way._replace(jumps=tuple(earlier), proxy_command=None)
        return self._connect(on_the_way, deadline, self._credentials.without_password(), jumps - 1)

    def _channel_through(self, jump: SSHConnection, target: Target, deadline: SSHBootDeadline) -> JumpChannel:
        try:
            with deadline.ending(jump.abandon):
                channel = jump.transport.open_channel(
                    "direct-tcpip",
                    (target.address, target.port),
                    ("127.0.0.1", 0),
                    window_size=WINDOW,
                    timeout=deadline.step_timeout(self._step_timeout(target)),
                )
        except Exception as error:  # any error of paramiko or of the connection below it
            where = f"{target.address} port {target.port}"
            text = f"{target.label}: {jump.target.label} cannot connect to {where}: {_text_of(error)}"
            raise BootError(text, "connect") from error
        return JumpChannel(channel)

    # -- host keys and logins ------------------------------------------------------------------------------------------

    def _transport(self, target: Target, sock: Any) -> paramiko.Transport:
        transport = paramiko.Transport(sock, default_window_size=WINDOW, default_max_packet_size=PACKET)
        transport.name = f"dragonfly-ssh-{target.label}"
        transport.set_log_channel(LOG_CHANNEL)
        options = transport.get_security_options()
        fast = [cipher for cipher in FAST_CIPHERS if cipher in options.ciphers]
        options.ciphers = tuple(dict.fromkeys((*fast, *options.ciphers)))
        known = self._host_keys.of(target.known_hosts).types(target.key_name)
        wanted = [name for kind in known for name in _algorithms(kind) if name in options.key_types]
        options.key_types = tuple(dict.fromkeys((*wanted, *options.key_types)))
        return transport

    def _agree(self, target: Target, transport: paramiko.Transport, deadline: SSHBootDeadline) -> paramiko.PKey:
        """Exchange keys, and verify the host key. No credential is sent before that."""
        key: paramiko.PKey | None = None
        timeout = deadline.step_timeout(self._step_timeout(target))
        # Longer than ours, so that paramiko's timeouts never expire first: our error says which step timed out.
        transport.banner_timeout = transport.handshake_timeout = timeout + JOIN_TIMEOUT
        done = threading.Event()
        try:
            transport.start_client(event=done)
            in_time = done.wait(timeout)
            error: BaseException | None = transport.get_exception()
            if in_time and error is None and transport.is_active():
                key = transport.get_remote_server_key()
        except (paramiko.SSHException, EOFError, OSError) as raised:
            in_time, error = True, raised
        if key is None:
            why = f"no answer within {timeout:.3g} s" if not in_time else _text_of(error)
            text = f"{target.label}: no usable SSH server answers there: {why}"
            first = getattr(transport.sock, "first", None)
            if in_time and first is not None and not transport.remote_version:
                says_full = any(words in first for words in SAYS_FULL)
                if says_full or not first:
                    raise _ClosedAtOnceError(text, "connect", says_full=says_full) from error
            raise BootError(text, "connect") from error
        host_keys = self._host_keys.of(target.known_hosts)
        try:
            host_keys.verify(target.label, target.key_name, key.asbytes())
        except HostKeyError as error:
            if target.unsupported:
                names = ", ".join(target.unsupported)
                text = f'{error.args[0]} ({names} is set for it, and only client="openssh" uses it)'
                raise HostKeyError(text, "host key") from error
            raise
        return key


class _ClosedAtOnceError(BootError):
    """A server closed the connection before its banner, as an overloaded sshd does."""

    def __init__(self, text: str, phase: str, *, says_full: bool) -> None:
        super().__init__(text, phase)
        self.says_full = says_full


def _algorithms(kind: str) -> tuple[str, ...]:
    """Return the signature algorithms for a host key of this type."""
    return ("rsa-sha2-512", "rsa-sha2-256") if kind == "ssh-rsa" else (kind,)


def _text_of(error: BaseException | None) -> str:
    if error is None or isinstance(error, EOFError):
        return "the connection was closed"
    return str(error) or type(error).__name__


def _end(transport: paramiko.Transport) -> None:
    """Close the transport, and wait for its thread."""
    transport.close()
    transport.sock.close()
    if transport.is_alive():
        transport.join(JOIN_TIMEOUT)
    if transport.is_alive():
        logging.getLogger("dragonfly_executor").error("thread %s has not ended", transport.name)
    # If the handshake failed, paramiko leaves a timer thread behind. This ends it.
    transport.packetizer.complete_handshake()
