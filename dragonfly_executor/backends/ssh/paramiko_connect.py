"""A connection to a host: reached, known, and let in. Through other hosts, or a program, where the user says so."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

import paramiko

from dragonfly_executor.backends.ssh.auth import Credentials
from dragonfly_executor.backends.ssh.config import Target
from dragonfly_executor.backends.ssh.deadline import Deadline
from dragonfly_executor.backends.ssh.happy_eyeballs import addresses, connect_first
from dragonfly_executor.backends.ssh.host_keys import HostKeys
from dragonfly_executor.backends.ssh.login_limit import FULL_TRIES, SAYS_FULL, TRIES, LoginLimit, pause_after
from dragonfly_executor.backends.ssh.proxies import Passage, PromptSocket, Proxy
from dragonfly_executor.errors import BootError, HostKeyError

if TYPE_CHECKING:
    from typing import TypeAlias

    Through: TypeAlias = "Connection | Proxy | None"

WINDOW = 2 * 1024 * 1024
"""Bytes under way to the parent at most. On a slow link whatever comes next waits behind so many."""
PACKET = 64 * 1024
"""The largest packet that the host may send. Each costs the interpreter some time; larger ones cost fresh memory."""
FAST_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
JOIN_PATIENCE = 5.0
MAX_JUMPS = 8
LOG_CHANNEL = "dragonfly_executor.paramiko"
# A failure raises an error that says what failed. paramiko also logs a traceback for each, and Python would print those
# if nothing configures logging.
logging.getLogger(LOG_CHANNEL).addHandler(logging.NullHandler())
if logging.getLogger(LOG_CHANNEL).level == logging.NOTSET:
    logging.getLogger(LOG_CHANNEL).setLevel(logging.CRITICAL)


class Connection:
    """An SSH connection on which commands can be run. It holds whatever it goes through.

    Attributes:
        transport: paramiko's.
        target: the host.
        key: what it has proven itself with; None before it has.
    """

    def __init__(self, target: Target, transport: paramiko.Transport, through: Through) -> None:
        self.target = target
        self.key: paramiko.PKey | None = None
        self.transport = transport
        self._through = through
        self._limit: threading.Timer | None = None

    def descriptors(self) -> list[int]:
        """What holds it open."""
        if self._through is not None:
            return self._through.descriptors()
        sock: socket.socket = self.transport.sock
        return [sock.fileno()] if sock.fileno() >= 0 else []

    def cut_in(self, seconds: float) -> None:
        """Cut it after so many seconds, unless `keep` or `close` comes first.

        A host that says nothing more, or takes nothing more, is waited for inside paramiko in places where no time can
        be given, and some of those hold locks that even ending the connection needs.
        """
        self.keep()
        limit = threading.Timer(seconds, self.cut)
        limit.name = f"dragonfly-ssh-limit-{self.target.label}"
        limit.daemon = True
        try:
            limit.start()
        except RuntimeError:
            # The interpreter is ending, and Python 3.12 starts no threads then. The pool has limits of its own.
            return
        self._limit = limit

    def keep(self) -> None:
        """Do not cut it, as long as that may take."""
        limit, self._limit = self._limit, None
        if limit is not None:
            limit.cancel()
            limit.join()

    def cut(self) -> None:
        """Let nothing more through, so that whoever waits for it is told. Any thread; takes no locks."""
        if self._through is not None:
            self._through.cut()
            return
        with suppress(OSError):
            self.transport.sock.shutdown(socket.SHUT_RDWR)

    def abandon(self) -> None:
        """Cut it, and kill the program that it goes through, if there is one. Any thread; does not block."""
        if self._through is not None:
            self._through.abandon()
            return
        self.cut()

    def close(self) -> None:
        """End it and all that it goes through. Twice is fine, never raises."""
        self.keep()
        self.cut()
        _end(self.transport)
        if self._through is not None:
            self._through.close()


class Connector:
    """Makes connections.

    Args:
        host_keys: which hosts are known.
        credentials: what to be let in with.
        connect_timeout: seconds for each of reaching a host, agreeing on keys, and being let in.
        resolve: what the configuration says of a jump host that the user writes so.
    """

    def __init__(
        self,
        host_keys: HostKeys,
        credentials: Credentials,
        connect_timeout: float,
        resolve: Callable[[str, Deadline], Target],
    ) -> None:
        self._host_keys = host_keys
        self._credentials = credentials
        self._connect_timeout = connect_timeout
        self._resolve = resolve
        self._limits: dict[tuple[str, int, str | None], LoginLimit] = {}
        self._lock = threading.Lock()
        """Of `_limits`."""

    def connect(self, target: Target, deadline: Deadline) -> Connection:
        """Connect to a host. The connection is cut when the deadline is over, unless it is told to `keep`.

        Raises:
            HostKeyError: the host, or one on the way, is not known, or not by this key.
            BootError: it cannot be reached, or lets nobody in; phase "resolve", "connect" or "auth".
        """
        connection = self._connect(target, deadline, self._credentials, MAX_JUMPS)
        connection.cut_in(deadline.left())
        return connection

    def _connect(self, target: Target, deadline: Deadline, credentials: Credentials, jumps: int) -> Connection:
        """Connect, again and again while the server is too busy with other logins."""
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

    def _log_in(self, target: Target, deadline: Deadline, credentials: Credentials, jumps: int) -> Connection:
        sock, through = self._reach(target, deadline, jumps)
        transport = self._transport(target, sock)
        connection = Connection(target, transport, through)
        try:
            with deadline.ending(connection.abandon):
                connection.key = self._agree(target, transport, deadline)
                deadline.progress()
                credentials.log_in(transport, target, deadline, self._patience(target))
        except BaseException:
            connection.close()
            raise
        deadline.progress()
        transport.set_keepalive(target.keepalive)
        return connection

    def _patience(self, target: Target) -> float:
        """Seconds for each step on the way in."""
        return target.connect_timeout or self._connect_timeout

    # -- a way to the host --------------------------------------------------------------------------------------------

    def _reach(self, target: Target, deadline: Deadline, jumps: int) -> tuple[Any, Through]:
        """Something with a socket's methods that leads to the host's sshd, and what it goes through."""
        if target.proxy_command is not None:
            proxy = Proxy(target)
            return proxy.sock, proxy
        if not target.jumps:
            return self._dial(target, deadline), None
        jump = self._jump(target, deadline, jumps)
        try:
            return self._channel_through(jump, target, deadline), jump
        except BaseException:
            jump.close()
            raise

    def _dial(self, target: Target, deadline: Deadline) -> socket.socket:
        patience = self._patience(target)
        try:
            found = addresses(target.address, target.port, deadline, patience)
        except (OSError, UnicodeError) as error:
            text = f"{target.label}: there is no address for {target.address!r}: {error}"
            raise BootError(text, "resolve") from error
        try:
            sock = connect_first(found, deadline, patience)
        except OSError as error:
            where = f"{target.address} port {target.port}"
            raise BootError(f"{target.label}: cannot connect to {where}: {error}", "connect") from error
        deadline.progress()
        # Calls are small and wait for answers; and a peer that is gone must be noticed with data under way, too.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)
        return PromptSocket(sock)

    def _jump(self, target: Target, deadline: Deadline, jumps: int) -> Connection:
        """A connection to the last host on the way."""
        if jumps <= 0:
            text = f"{target.label}: more than {MAX_JUMPS} hosts to jump through; do they go in a ring?"
            raise BootError(text, "resolve")
        *earlier, last = target.jumps
        on_the_way = self._resolve(last, deadline)
        if earlier:
            on_the_way = on_the_way._replace(jumps=tuple(earlier), proxy_command=None)
        return self._connect(on_the_way, deadline, self._credentials.without_password(), jumps - 1)

    def _channel_through(self, jump: Connection, target: Target, deadline: Deadline) -> Passage:
        try:
            with deadline.ending(jump.abandon):
                channel = jump.transport.open_channel(
                    "direct-tcpip",
                    (target.address, target.port),
                    ("127.0.0.1", 0),
                    window_size=WINDOW,
                    timeout=deadline.left(self._patience(target)),
                )
        except Exception as error:  # whatever ended the connection, of paramiko's or of what it stands on
            where = f"{target.address} port {target.port}"
            text = f"{target.label}: {jump.target.label} cannot connect to {where}: {_text_of(error)}"
            raise BootError(text, "connect") from error
        return Passage(channel)

    # -- keys and people ----------------------------------------------------------------------------------------------

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

    def _agree(self, target: Target, transport: paramiko.Transport, deadline: Deadline) -> paramiko.PKey:
        """Exchange keys, and look whose they are. Nothing of the user's is shown before that."""
        key: paramiko.PKey | None = None
        patience = deadline.left(self._patience(target))
        # Longer, so that it is never paramiko's own that is over first: here is said what that means.
        transport.banner_timeout = transport.handshake_timeout = patience + JOIN_PATIENCE
        done = threading.Event()
        try:
            transport.start_client(event=done)
            in_time = done.wait(patience)
            error: BaseException | None = transport.get_exception()
            if in_time and error is None and transport.is_active():
                key = transport.get_remote_server_key()
        except (paramiko.SSHException, EOFError, OSError) as raised:
            in_time, error = True, raised
        if key is None:
            why = f"no answer within {patience:.3g} s" if not in_time else _text_of(error)
            text = f"{target.label}: this is no SSH server that one can speak with: {why}"
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
                text = f'{error.args[0]} ({names} is set for it, and counts with client="openssh" alone)'
                raise HostKeyError(text, "host key") from error
            raise
        return key


class _ClosedAtOnceError(BootError):
    """A server took the connection and closed it before it named itself, as an sshd does that is too busy."""

    def __init__(self, text: str, phase: str, *, says_full: bool) -> None:
        super().__init__(text, phase)
        self.says_full = says_full


def _algorithms(kind: str) -> tuple[str, ...]:
    """By which signatures a host can prove that it has a key of this type."""
    return ("rsa-sha2-512", "rsa-sha2-256") if kind == "ssh-rsa" else (kind,)


def _text_of(error: BaseException | None) -> str:
    if error is None or isinstance(error, EOFError):
        return "the connection was closed"
    return str(error) or type(error).__name__


def _end(transport: paramiko.Transport) -> None:
    """Close it, and wait for its thread."""
    transport.close()
    transport.sock.close()
    if transport.is_alive():
        transport.join(JOIN_PATIENCE)
    if transport.is_alive():
        logging.getLogger("dragonfly_executor").error("thread %s has not ended", transport.name)
    # Where the handshake broke off, paramiko leaves a thread behind that would have ended it in time.
    transport.packetizer.complete_handshake()
