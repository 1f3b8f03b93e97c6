"""The engine's listener for runners that dial back. It is open while runners are expected, and each has its own token.

Everything runs on the engine thread, except for making the certificate and binding. These may block, so the boot
workers do them.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dragonfly_executor import errors
from dragonfly_executor.protocol.dialback_auth import SECRET_SIZE, BootTokens, ParentHandshake
from dragonfly_executor.protocol.versions import versions
from dragonfly_executor.transport import listener
from dragonfly_executor.transport.listener import Listener
from dragonfly_executor.transport.tcp import WILDCARDS, join_address
from dragonfly_executor.transport.tls import server_context
from dragonfly_executor.transport.tls_socket import TlsSocket

if TYPE_CHECKING:
    from dragonfly_executor.backends.base import Backend, BootRequest
    from dragonfly_executor.engine.worker_threads import WorkerThreads
    from dragonfly_executor.transport.loop import Loop

REFUSAL_LOG_INTERVAL = 60.0
"""Minimum number of seconds between two log lines about refused peers: a stranger can cause any number of refusals."""


class DialBackReceiver(Protocol):
    """The boot whose runner is expected. It belongs to the engine thread."""

    def listener_opened(self, request: BootRequest) -> None:
        """Begin: the listener is open, and the request's `Parent` has its address and the token."""

    def listener_failed(self, error: errors.BootError) -> None:
        """Fail: the listener cannot be opened."""

    def runner_joined(self, connection: TlsSocket) -> None:
        """Take over the connection of the runner, which has authenticated."""


class ListeningSocket(NamedTuple):
    """Everything that must exist before a runner can connect."""

    sock: socket.socket
    context: ssl.SSLContext
    fingerprint: bytes
    address: str


class DialBack:
    """The dial-back boots of a pool.

    Args:
        backend: has the address to listen on.
        loop, workers: the pool's.
        warn: logs a warning.
        make_listener: makes the `Listener`, each time that the listener opens.
    """

    def __init__(
        self,
        backend: Backend,
        loop: Loop,
        workers: WorkerThreads,
        warn: Callable[[str], object],
        make_listener: Callable[..., Listener] = Listener,
    ) -> None:
        self._backend = backend
        self._loop = loop
        self._workers = workers
        self._warn = warn
        self._make_listener = make_listener
        self._tokens = BootTokens(os.urandom(SECRET_SIZE))
        self._expected: dict[int, DialBackReceiver] = {}
        """The boots whose runners have not dialed back."""
        self._waiting: dict[int, BootRequest] = {}
        """The boots that wait for the listener."""
        self._listening_socket: ListeningSocket | None = None
        self._listener: Listener | None = None
        self._is_opening = False
        self._has_warned_of_wildcard = False
        self._handover = threading.Lock()
        self._made: ListeningSocket | None = None
        self._ended = False
        self._untold = 0
        self._told_at: float | None = None
        self.last_refusal: errors.RunnerAuthError | None = None
        """The reason for the last refusal since the listener opened; perhaps it came from the missing runner."""

    def expect(self, request: BootRequest, receiver: DialBackReceiver) -> None:
        """Expect a runner, and open the listener for it. The receiver is notified when the boot may begin."""
        self._expected[request.runner_id] = receiver
        self._waiting[request.runner_id] = request
        if self._listener is not None:
            self._hand_out()
        elif not self._is_opening:
            self._is_opening = True
            self._workers.run(self._make_listening_socket)

    def extend(self, runner_id: int, seconds: float) -> None:
        """Accept an expected runner for `seconds` more seconds from now on."""
        self._tokens.extend(str(runner_id), self._loop.time() + seconds)

    def forget(self, runner_id: int) -> None:
        """Expect this runner no more. The listener closes after the last one."""
        self._expected.pop(runner_id, None)
        self._waiting.pop(runner_id, None)
        self._tokens.revoke(str(runner_id))
        self._close_if_unused()

    def descriptors(self) -> list[int]:
        """Return the descriptors that a forked child must close."""
        return [] if self._listener is None else self._listener.descriptors()

    def close(self) -> None:
        """Close the listener for good."""
        with self._handover:
            self._ended = True
        if self._made is not None:
            self._made.sock.close()
        self._close()

    # -- opening and closing ------------------------------------------------------------------------------------------

    def _make_listening_socket(self) -> None:
        """Make the socket and the certificate. Runs on the boot workers."""
        try:
            listening = make_listening_socket(self._backend)
        except BaseException as raised:  # a backend may be third-party code, and is asked for its address
            error = raised if isinstance(raised, errors.BootError) else _cannot_listen(raised)
            self._loop.call_soon_threadsafe(lambda: self._cannot_open(error))
            return
        with self._handover:
            if not self._ended:
                self._made = listening
                self._loop.call_soon_threadsafe(self._open)
                return
        listening.sock.close()

    def _cannot_open(self, error: errors.BootError) -> None:
        self._is_opening = False
        # Only the boots that wait now: the pool may boot other runners at once.
        waiting, self._waiting = self._waiting, {}
        for runner_id in waiting:
            # Each boot gets an error of its own, because its output and attempts are added to it.
            own = errors.BootError(str(error.args[0]), error.phase)
            own.__cause__ = error.__cause__
            receiver = self._expected.pop(runner_id, None)
            if receiver is not None:
                receiver.listener_failed(own)

    def _open(self) -> None:
        listening, self._made = self._made, None
        if listening is None:
            return  # it was closed meanwhile
        self._is_opening = False
        self._listening_socket = listening
        self._listener = self._make_listener(self._loop, listening.sock, listening.context, self._make_side, self)
        self.last_refusal = None
        self._warn_of_wildcard(listening.sock.getsockname()[0])
        self._hand_out()
        self._close_if_unused()

    def _warn_of_wildcard(self, host: str) -> None:
        if host in WILDCARDS and not self._has_warned_of_wildcard:
            self._has_warned_of_wildcard = True
            self.warn(f"listens on every network of this machine ({host}); name the address that runners dial")

    def _make_side(self) -> ParentHandshake:
        assert self._listening_socket is not None  # noqa: S101  # there is a listener, so there is a socket
        return ParentHandshake(self._tokens, self._listening_socket.fingerprint, os.urandom(SECRET_SIZE), versions())

    def _hand_out(self) -> None:
        """Give each waiting boot a token and the address, and let it begin."""
        listening = self._listening_socket
        while self._waiting and listening is not None:
            runner_id, request = self._waiting.popitem()
            token = os.urandom(SECRET_SIZE)
            self._tokens.grant(str(runner_id), token, self._loop.time() + request.timeout)
            parent = request.parent._replace(
                address=listening.address, fingerprint=listening.fingerprint.hex(), token=token.hex()
            )
            self._expected[runner_id].listener_opened(request._replace(parent=parent))

    def _close_if_unused(self) -> None:
        if not (self._waiting or self._tokens):
            self._close()

    def _close(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = self._listening_socket = None

    # -- events of the listener ----------------------------------------------------------------------------------------

    def runner_joined(self, runner_id: str, sock: TlsSocket) -> None:
        """See `listener.ListenerOwner`."""
        self._expected.pop(int(runner_id)).runner_joined(sock)
        self._close_if_unused()

    def refused(self, peer: str, reason: str) -> None:
        """See `listener.ListenerOwner`. Logs at once, and then at most once a minute."""
        self._untold += 1
        self.last_refusal = errors.RunnerAuthError(f"a connection from {peer} was refused: {reason}", "connect")
        now = self._loop.time()
        if self._told_at is not None and now - self._told_at < REFUSAL_LOG_INTERVAL:
            return
        more = f" ({self._untold - 1} others since the last such line)" if self._untold > 1 else ""
        self._told_at, self._untold = now, 0
        self.warn(f"RunnerAuthError: {self.last_refusal.args[0]}{more}")

    def warn(self, text: str) -> None:
        """See `listener.ListenerOwner`."""
        self._warn(text)


def make_listening_socket(backend: Backend) -> ListeningSocket:
    """Bind the address that the backend names, and make a certificate. Blocks.

    Raises:
        BootError: there is no address to tell the runners, or cryptography is missing.
        OSError: the address cannot be bound.
    """
    host, port = backend.listen_address()
    advertised = backend.advertised_host or host
    if advertised in WILDCARDS:
        raise errors.BootError(
            f"the {backend.name} backend listens on {host!r} "
            "and does not set advertised_host, the host that its runners dial"
        )
    context, fingerprint = server_context()
    sock = listener.bind(host, port)
    port = backend.advertised_port or sock.getsockname()[1]
    return ListeningSocket(sock, context, fingerprint, join_address(advertised, port))


def _cannot_listen(error: BaseException) -> errors.BootError:
    boot_error = errors.BootError(f"cannot listen for runners: {type(error).__name__}: {error}")
    boot_error.__cause__ = error
    return boot_error
