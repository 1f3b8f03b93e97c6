"""The listener for runners that dial back. It is open only while such runners are expected.

The listener runs on the engine's loop. A peer can neither block it nor make it hold much memory: a connection has some
seconds in total to authenticate, and a frame has at most 4 KiB. Connections that have sent no byte are kept in a table
of their own, so that they never displace a connection that sends. Each table is bounded. If a table is full, the
address with most connections in it loses one. No pickle is ever read here.
"""

from __future__ import annotations

import errno
import resource
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

from dragonfly_executor import errors
from dragonfly_executor.protocol.dialback_auth import REFUSAL, ParentHandshake
from dragonfly_executor.protocol.frames import MAX_HANDSHAKE_FRAME, Decoder
from dragonfly_executor.transport.loop import Loop
from dragonfly_executor.transport.pending_connections import Networks, PendingConnections, networks_of
from dragonfly_executor.transport.tcp import set_tcp_options
from dragonfly_executor.transport.tls import wrap_accepted
from dragonfly_executor.transport.tls_socket import TlsSocket

BACKLOG = 1024
"""Number of connections that the kernel queues until they are accepted.

A flood fills the queue while the engine is busy.
"""
DEADLINE = 10.0
AT_ONCE = 1024
"""Maximum number of connections that are held at the same time, if the process may have that many descriptors."""
ACCEPT_PAUSE = 1.0
OUT_OF_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class ListenerOwner(Protocol):
    """The owner of a listener. The listener reports the fate of connections to it."""

    def runner_joined(self, runner_id: str, sock: TlsSocket) -> None:
        """Take over the connection of a runner that has authenticated."""

    def refused(self, peer: str, reason: str) -> None:
        """Report that a peer was refused."""

    def warn(self, text: str) -> None:
        """Report a problem that does not stop the listener."""


def bind(host: str, port: int) -> socket.socket:
    """Return a listening, non-blocking socket. The name lookup may block.

    Raises:
        OSError: there is no such address on this machine, or its port is in use.
    """
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        # A fixed port must be free again at once.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def places() -> int:
    """Return how many connections to hold at the same time: at most half of this process's descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return AT_ONCE if soft == resource.RLIM_INFINITY else min(AT_ONCE, soft // 2)


class Listener:
    """A listener that accepts connections and admits runners after the handshake.

    Args:
        loop: the engine's loop.
        sock: a socket from `bind`. The listener takes it over.
        context: the TLS context, with the certificate.
        make_side: returns a new parent's half of a handshake, for each connection.
        host: the owner, which receives reports.
        deadline: seconds from accepting a connection until it must have authenticated.
        at_once: maximum number of connections that are held at the same time: one half for silent connections, one half
            for those that have sent data. Default: `places`
        accept_pause: seconds for which no connection is accepted after this process has run out of descriptors.
    """

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        context: ssl.SSLContext,
        make_side: Callable[[], ParentHandshake],
        host: ListenerOwner,
        *,
        deadline: float = DEADLINE,
        at_once: int | None = None,
        accept_pause: float = ACCEPT_PAUSE,
    ) -> None:
        self.loop = loop
        self.deadline = deadline
        self.make_side = make_side
        self.host = host
        self._sock = sock
        self._context = context
        self._accept_pause = accept_pause
        self._has_warned = False
        at_once = places() if at_once is None else at_once
        self._silent: PendingConnections[PendingConnection] = PendingConnections(at_once // 2)
        self._speaking: PendingConnections[PendingConnection] = PendingConnections(at_once - at_once // 2)
        self.port: int = sock.getsockname()[1]
        loop.add_reader(sock.fileno(), self._accept)

    def descriptors(self) -> list[int]:
        """Return the descriptors that a forked child must not keep."""
        if self._sock.fileno() < 0:
            return []
        return [self._sock.fileno(), *(candidate.fileno() for candidate in self._candidates())]

    def _candidates(self) -> list[PendingConnection]:
        return [*self._silent.items(), *self._speaking.items()]

    def close(self) -> None:
        """Stop listening, and drop all connections that have not authenticated. Further calls do nothing."""
        if self._sock.fileno() < 0:
            return
        self.loop.remove_reader(self._sock.fileno())
        self._sock.close()
        for candidate in self._candidates():
            candidate.drop()

    def begin_tls(self, candidate: PendingConnection, sock: socket.socket) -> TlsSocket:
        """Take over the socket of a candidate that has sent its first bytes, and count it as no longer silent.

        Raises:
            OSError: the peer has closed the connection.
        """
        self._silent.discard(candidate)
        self._drop(self._speaking.add(candidate, candidate.networks))
        return wrap_accepted(self._context, sock)

    def speaks_tls(self, candidate: PendingConnection) -> None:
        """Favour a candidate whose TLS handshake is done."""
        self._speaking.prefer(candidate)

    def forget(self, candidate: PendingConnection) -> None:
        """Remove a candidate from the tables."""
        self._silent.discard(candidate)
        self._speaking.discard(candidate)

    def _accept(self) -> None:
        try:
            sock, address = self._sock.accept()
        except OSError as error:
            # All other errors concern this peer only: it has closed the connection.
            if error.errno in OUT_OF_ROOM:
                self._out_of_room(error)
            return
        try:
            sock.setblocking(False)
            set_tcp_options(sock)
        except OSError:
            sock.close()
            return  # the peer has closed the connection
        networks = networks_of(address[0])
        candidate = PendingConnection(self, sock, f"{address[0]}:{address[1]}", networks)
        self._drop(self._silent.add(candidate, networks))

    @staticmethod
    def _drop(candidate: PendingConnection | None) -> None:
        if candidate is not None:
            candidate.drop()

    def _out_of_room(self, error: OSError) -> None:
        """Drop a silent connection to free its descriptor, or pause accepting if there is none."""
        silent = self._silent.make_room()
        if silent is not None:
            silent.drop()
            return
        # The connection stays in the kernel's queue and stays readable, so without a pause the loop spins.
        self.loop.remove_reader(self._sock.fileno())
        self.loop.call_later(self._accept_pause, self._accept_again)
        if not self._has_warned:
            self._has_warned = True
            self.host.warn(f"runners cannot connect for now, so boots take longer: {error}")

    def _accept_again(self) -> None:
        if self._sock.fileno() >= 0:
            self.loop.add_reader(self._sock.fileno(), self._accept)


class PendingConnection:
    """A connection that has yet to authenticate. Until it has sent a byte it costs a descriptor and little memory."""

    def __init__(self, listener: Listener, sock: socket.socket, peer: str, networks: Networks) -> None:
        self.networks = networks
        self._listener = listener
        self._loop = listener.loop
        self._plain = sock
        self._tls: TlsSocket | None = None
        self._fd = sock.fileno()
        self._peer = peer
        self._side: ParentHandshake | None = None
        self._decoder = Decoder(MAX_HANDSHAKE_FRAME, one_by_one=True)
        self._timer = self._loop.call_later(listener.deadline, self._is_late)
        self._loop.add_reader(self._fd, self._speaks)

    def fileno(self) -> int:
        """Return its descriptor."""
        return self._fd

    def drop(self) -> None:
        """Close the connection without an answer."""
        self._leave()
        # Once TLS has begun, the TLS socket owns the descriptor of the plain socket.
        self._plain.close()
        if self._tls is not None:
            self._tls.close()

    def _leave(self) -> None:
        self._timer.cancel()
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._listener.forget(self)

    def _is_late(self) -> None:
        self._refuse(f"it did not authenticate within {self._listener.deadline:g} s", answer=b"")

    def _refuse(self, reason: str, answer: bytes = REFUSAL) -> None:
        """Send the peer a refusal without a reason, and report the reason to the host."""
        try:
            if answer and self._tls is not None:
                self._tls.send(answer)
        except OSError:
            pass  # the peer did not wait for the answer
        finally:
            self.drop()
        self._listener.host.refused(self._peer, reason)

    # -- TLS ----------------------------------------------------------------------------------------------------------

    def _speaks(self) -> None:
        """Handle the first bytes of the peer, or the end of the connection."""
        try:
            if not self._plain.recv(1, socket.MSG_PEEK):
                self._refuse("it closed before it had sent any data", answer=b"")
                return
            self._tls = self._listener.begin_tls(self, self._plain)
        except BlockingIOError:
            return
        except OSError as error:
            self._refuse(f"it broke before it had sent any data: {error}", answer=b"")
            return
        self._loop.add_reader(self._fd, self._shake_hands)
        self._shake_hands()

    def _shake_hands(self) -> None:
        assert self._tls is not None  # noqa: S101  # TLS has begun
        try:
            self._tls.do_handshake()
        except BlockingIOError:
            return
        except (OSError, ValueError) as error:
            self._refuse(f"it does not speak TLS 1.3: {error}", answer=b"")
        else:
            self._listener.speaks_tls(self)
            self._loop.add_reader(self._fd, self._read)
            # Its first frame may have come with the end of the handshake, so no poller sees it.
            self._read()

    # -- frames -------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        assert self._tls is not None  # noqa: S101  # TLS has begun
        try:
            data = self._tls.recv()
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._refuse("it closed before it had authenticated", answer=b"")
            return
        try:
            self._hear(data, self._tls)
        except errors.ProtocolError as error:
            self._refuse(str(error))
        except OSError as error:
            # The peer does not take the answer, some hundred bytes at most.
            self._refuse(f"it did not read the answer: {error}", answer=b"")

    def _hear(self, data: bytes, sock: TlsSocket) -> None:
        side = self._side = self._side or self._listener.make_side()
        answer = b""
        frames = self._decoder.feed(data)
        while frames:
            answer += side.receive(frames[0], self._loop.time())
            frames = self._decoder.feed(b"") if self._decoder.pending else []
        admitted = side.admitted
        if admitted is not None and self._decoder.pending:
            raise errors.ProtocolError("it sent more data before it was answered")
        try:
            sock.send(answer) if answer else None
        except OSError:
            # An authenticated peer that is already gone is a lost runner: its link detects that.
            if admitted is None:
                raise
        if admitted is not None:
            self._leave()
            self._listener.host.runner_joined(admitted, sock)
