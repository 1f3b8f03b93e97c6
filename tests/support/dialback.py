"""Runners that are plain processes and dial back over TLS, the listener that they dial, and other peers."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

from dragonfly_executor import BootError
from dragonfly_executor.backends.base import Backend, BootRequest, Node
from dragonfly_executor.protocol.dialback_auth import SECRET_SIZE, RunnerHandshake
from dragonfly_executor.protocol.frames import Decoder, Frame
from dragonfly_executor.protocol.parent import VARIABLE, Parent
from dragonfly_executor.runner import process_tree
from dragonfly_executor.testing import dialback_server
from dragonfly_executor.transport.tcp import split_address
from dragonfly_executor.transport.tls import connect
from dragonfly_executor.transport.tls_socket import TlsSocket
from tests.support.helpers import PATIENCE

MARKER = "DRAGONFLY_DIALING_RUNNER"
STOP_TIMEOUT = 5.0


def start_runner(parent: Parent, *arguments: str, marker: str = "", **options: Any) -> subprocess.Popen[bytes]:
    """A runner that dials this parent."""
    return subprocess.Popen(
        [sys.executable, "-m", "dragonfly_executor.runner", *arguments],
        stdin=subprocess.DEVNULL,
        env={**os.environ, MARKER: marker, VARIABLE: parent.encode()},
        start_new_session=True,
        **options,
    )


@contextmanager
def runner_of(parent: Parent, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """The same, and it is gone afterwards, whatever happens."""
    with start_runner(parent, *arguments) as process:
        try:
            yield process
        except BaseException:
            process_tree.kill_tree(process.pid)
            raise


class DialingNode(Node):
    def __init__(self, process: subprocess.Popen[bytes], marker: str) -> None:
        self.process = process
        self._marker = f"{MARKER}={marker}".encode()
        self.stops = 0

    def kill(self) -> None:
        process_tree.kill(self.process.pid)

    def left(self) -> list[int]:
        return process_tree.members([self.process.pid, *self.sessions], self._marker)

    def stop(self) -> None:
        self.stops += 1
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process_tree.kill_tree(self.process.pid)
            self.process.wait()
        while left := self.left():
            for pid in left:
                process_tree.kill(pid)


class DialingBackend(Backend):
    """A process of this machine for each runner, that is told by its environment where to dial.

    Attributes:
        nodes: all that it has booted.
        node: their class.
    """

    node = DialingNode
    name = "dialing"
    default_max = 1
    dials_back = True

    def __init__(self, *, python: str | None = None) -> None:
        self._options: dict[str, Any] = {} if python is None else {"executable": python}
        self.nodes: list[DialingNode] = []

    def default_slots(self) -> int:
        return 2

    def parent_of(self, request: BootRequest) -> Parent:
        """What the runner is told of its parent."""
        return request.parent

    def boot(self, request: BootRequest) -> Node:
        marker = os.urandom(8).hex()
        try:
            process = start_runner(self.parent_of(request), marker=marker, **self._options)
        except OSError as error:
            raise BootError(f"cannot start a runner: {error}") from error
        self.nodes.append(self.node(process, marker))
        return self.nodes[-1]


class EmptyNodeBackend(Backend):
    """A backend of nodes on which nothing runs. The test learns which runner may dial in, and may dial in itself."""

    name = "held"
    default_max = 1
    dials_back = True

    def __init__(self, host: str = "127.0.0.1", port: int = 0, advertised: str | None = None) -> None:
        self._address = (host, port)
        self.advertised_host = advertised
        self.requests: SimpleQueue[BootRequest] = SimpleQueue()
        self.stopped: SimpleQueue[int] = SimpleQueue()

    def listen_address(self) -> tuple[str, int]:
        return self._address

    def default_slots(self) -> int:
        return 2

    def boot(self, request: BootRequest) -> Node:
        self.requests.put(request)
        node = Node()
        node.stop = lambda: self.stopped.put(request.runner_id)  # type: ignore[method-assign]
        return node

    def expected(self) -> Parent:
        """The parent of the next boot."""
        return self.requests.get(timeout=PATIENCE).parent


class RunnerListener(dialback_server.DialBackServer):
    """The listener that the runners of an `EmptyNodeBackend` dial, unless a test gives another one."""

    def __init__(self, backend: Backend | None = None, **limits: Any) -> None:
        super().__init__(backend or EmptyNodeBackend(), PATIENCE, **limits)

    def expect(self, number: int = 1, timeout: float = PATIENCE) -> Parent:
        """Want a runner; what it has to know."""
        return self.request(number, timeout).parent


def plain(parent: Parent) -> socket.socket:
    """A connection to the parent that speaks no TLS."""
    assert parent.address is not None
    return socket.create_connection(split_address(parent.address), PATIENCE)


def encrypted(parent: Parent) -> TlsSocket:
    """A connection to the parent that speaks TLS, and nothing yet within."""
    assert parent.address is not None
    assert parent.fingerprint is not None
    return connect(*split_address(parent.address), bytes.fromhex(parent.fingerprint), PATIENCE)


def side_of(parent: Parent, **other: Any) -> RunnerHandshake:
    """A runner's half of the handshake; or an impostor's, of whom something is `other`."""
    known: dict[str, Any] = {
        "runner_id": str(parent.runner_id),
        "token": bytes.fromhex(parent.token or ""),
        "fingerprint": bytes.fromhex(parent.fingerprint or ""),
        "nonce": os.urandom(SECRET_SIZE),
    }
    return RunnerHandshake(**{**known, **other})


def everything(sock: socket.socket) -> bytes:
    """What comes until the end of the stream."""
    received = b""
    try:
        while data := sock.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


class RecordedHandshake:
    """A handshake as it goes over the wire.

    Attributes:
        sent, received: all that passed.
        side: the runner's half.
    """

    def __init__(self, sock: TlsSocket, side: RunnerHandshake) -> None:
        self.sock = sock
        self.side = side
        self.sent: list[bytes] = []
        self.received = b""
        self._decoder = Decoder(one_by_one=True)

    def say(self, data: bytes) -> None:
        self.sent.append(data)
        self.sock.send(data)

    def frame(self) -> Frame:
        """The next one; EOFError at the end of the stream."""
        frames = self._decoder.feed(b"") if self._decoder.pending else []
        while not frames:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError
            self.received += data
            frames = self._decoder.feed(data)
        return frames[0]

    def go(self) -> RecordedHandshake:
        """All of it; raises what the runner's half raises."""
        self.say(self.side.dial())
        while self.side.greeting is None:
            answer = self.side.receive(self.frame())
            if answer:
                self.say(answer)
        return self


def dial(parent: Parent, **other: Any) -> RecordedHandshake:
    """Dial in as the right runner, or as one of whom something is `other`; not yet begun."""
    return RecordedHandshake(encrypted(parent), side_of(parent, **other))


def spellings(token: str) -> list[bytes]:
    """In hexadecimal, and wherever it may begin within a base64 text."""
    text = token.encode()
    shifted = [base64.urlsafe_b64encode(b"x" * shift + text)[4:-4] for shift in range(3)]
    return [text, bytes.fromhex(token), *shifted]
