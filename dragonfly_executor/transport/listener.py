"""Where runners dial in: open only while some are waited for, and out of patience with everybody else.

It lives on the engine's loop, and whoever connects can neither block it nor make it hold much: a connection has some
seconds in all to prove what it is, says no more than 4 KiB at a time, and makes room for others if it has yet to speak
TLS while too many wait. No pickle is ever read here.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

from dragonfly_executor import errors
from dragonfly_executor.core.dialback import REFUSAL, ParentSide
from dragonfly_executor.core.wire import MAX_HANDSHAKE_FRAME, Decoder
from dragonfly_executor.transport.loop import Loop
from dragonfly_executor.transport.tcp import tune
from dragonfly_executor.transport.tls import TlsSocket, wrap_accepted

BACKLOG = 128
DEADLINE = 10.0
AT_ONCE = 64
ACCEPT_PAUSE = 1.0
OUT_OF_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Host(Protocol):
    """Who listens; it is told what becomes of the connections."""

    def runner_joined(self, runner_id: str, sock: TlsSocket) -> None:
        """This runner has proved who it is, and its connection is the host's from now on."""

    def refused(self, peer: str, reason: str) -> None:
        """Somebody could not."""

    def warn(self, text: str) -> None:
        """Something is not as it should be, and goes on."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, non-blocking. Looking the name up may block.

    Raises:
        OSError: there is no such address here, or its port is taken.
    """
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        # A port that is always the same one must be free again at once.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


class Listener:
    """Accepts connections and lets runners in.

    Args:
        loop: the engine's.
        sock: from `bind`; the listener's from now on.
        context: of TLS, with the certificate.
        make_side: makes the parent's half of a handshake, for each connection anew.
        host: is told who came.
        deadline: seconds that a connection may take, from its first packet to its proof.
        at_once: connections that may be at it at the same time.
        accept_pause: seconds for which nobody is accepted when this process has run out of descriptors.
    """

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        context: ssl.SSLContext,
        make_side: Callable[[], ParentSide],
        host: Host,
        *,
        deadline: float = DEADLINE,
        at_once: int = AT_ONCE,
        accept_pause: float = ACCEPT_PAUSE,
    ) -> None:
        self.loop = loop
        self.deadline = deadline
        self.make_side = make_side
        self.host = host
        self._sock = sock
        self._context = context
        self._at_once = at_once
        self._accept_pause = accept_pause
        self._has_warned = False
        # In the order they came.
        self._candidates: dict[Candidate, None] = {}
        self.port: int = sock.getsockname()[1]
        loop.add_reader(sock.fileno(), self._accept)

    def descriptors(self) -> list[int]:
        """What a forked child must not keep open."""
        if self._sock.fileno() < 0:
            return []
        return [self._sock.fileno(), *(candidate.fileno() for candidate in self._candidates)]

    def close(self) -> None:
        """Listen no more, and drop who has not proved anything yet. Twice is fine."""
        if self._sock.fileno() < 0:
            return
        self.loop.remove_reader(self._sock.fileno())
        self._sock.close()
        for candidate in list(self._candidates):
            candidate.drop()

    def forget(self, candidate: Candidate) -> None:
        """It has gone, one way or the other."""
        self._candidates.pop(candidate, None)

    def _accept(self) -> None:
        try:
            sock, address = self._sock.accept()
        except OSError as error:
            # All others are that peer's own trouble: it has gone again.
            if error.errno in OUT_OF_ROOM:
                self._pause_accepting(error)
            return
        try:
            tune(sock)
            wrapped = wrap_accepted(self._context, sock)
        except OSError:
            sock.close()
            return  # it has gone again, or has said something before TLS could begin
        if len(self._candidates) >= self._at_once:
            self._make_room()
        self._candidates[Candidate(self, wrapped, f"{address[0]}:{address[1]}")] = None

    def _pause_accepting(self, error: OSError) -> None:
        """The connection stays in the kernel's queue, and would make the loop spin."""
        self.loop.remove_reader(self._sock.fileno())
        self.loop.call_later(self._accept_pause, self._accept_again)
        if not self._has_warned:
            self._has_warned = True
            self.host.warn(f"no runner can dial in for now, and boots will take longer: {error}")

    def _accept_again(self) -> None:
        if self._sock.fileno() >= 0:
            self.loop.add_reader(self._sock.fileno(), self._accept)

    def _make_room(self) -> None:
        """Drop the oldest of those who have not even spoken TLS; a runner would have, and it tries again."""
        silent = (candidate for candidate in self._candidates if not candidate.speaks_tls)
        next(silent, next(iter(self._candidates))).drop()


class Candidate:
    """A connection that has yet to prove what it is."""

    def __init__(self, listener: Listener, sock: TlsSocket, peer: str) -> None:
        self.speaks_tls = False
        self._listener = listener
        self._loop = listener.loop
        self._sock = sock
        self._fd = sock.fileno()
        self._peer = peer
        self._side = listener.make_side()
        self._decoder = Decoder(MAX_HANDSHAKE_FRAME, one_by_one=True)
        self._timer = self._loop.call_later(listener.deadline, self._is_late)
        self._loop.add_reader(self._fd, self._shake_hands)

    def fileno(self) -> int:
        """Its descriptor."""
        return self._fd

    def drop(self) -> None:
        """Close it without a word."""
        self._leave()
        self._sock.close()

    def _leave(self) -> None:
        self._timer.cancel()
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._listener.forget(self)

    def _is_late(self) -> None:
        self._refuse(f"it did not prove anything within {self._listener.deadline:g} s", answer=b"")

    def _refuse(self, reason: str, answer: bytes = REFUSAL) -> None:
        """Tell it nothing but no, and everybody else why."""
        try:
            if answer:
                self._sock.send(answer)
        except OSError:
            pass  # it did not wait for the answer
        finally:
            self.drop()
        self._listener.host.refused(self._peer, reason)

    # -- TLS ----------------------------------------------------------------------------------------------------------

    def _shake_hands(self) -> None:
        try:
            self._sock.do_handshake()
        except ssl.SSLWantReadError:
            self._loop.remove_writer(self._fd)
            self._loop.add_reader(self._fd, self._shake_hands)
        except ssl.SSLWantWriteError:
            self._loop.remove_reader(self._fd)
            self._loop.add_writer(self._fd, self._shake_hands)
        except (OSError, ValueError) as error:
            self._refuse(f"it does not speak TLS 1.3: {error}", answer=b"")
        else:
            self.speaks_tls = True
            self._loop.remove_writer(self._fd)
            self._loop.add_reader(self._fd, self._read)

    # -- frames -------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            data = self._sock.recv()
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._refuse("it left before it had proved anything", answer=b"")
            return
        try:
            self._hear(data)
        except errors.ProtocolError as error:
            self._refuse(str(error))
        except OSError as error:
            # It does not take what it was answered, some hundred bytes at most.
            self._refuse(f"it does not listen: {error}", answer=b"")

    def _hear(self, data: bytes) -> None:
        answer = b""
        frames = self._decoder.feed(data)
        while frames:
            answer += self._side.hear(frames[0], self._loop.time())
            frames = self._decoder.feed(b"") if self._decoder.pending else []
        admitted = self._side.admitted
        if admitted is not None and self._decoder.pending:
            raise errors.ProtocolError("it went on before it was answered")
        try:
            self._sock.send(answer) if answer else None
        except OSError:
            # Who has proved what it is, and is gone already, is a runner that was lost: that is for its link to find.
            if admitted is None:
                raise
        if admitted is not None:
            self._leave()
            self._listener.host.runner_joined(admitted, self._sock)
