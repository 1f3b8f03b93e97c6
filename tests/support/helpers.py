"""What tests of running pools share: hearing from calls, holding them, watching processes end, spoiling links.

Nothing here looks again and again: a call speaks through a FIFO, waits at a FIFO, and a process is watched through its
pidfd.
"""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from dragonfly_executor import DragonflyExecutor
from dragonfly_executor.backends.base import Backend, BootRequest, Node
from dragonfly_executor.backends.local import LocalBackend
from dragonfly_executor.protocol import handshake
from dragonfly_executor.protocol.frames import Decoder, Frame, Kind, encode
from dragonfly_executor.protocol.versions import versions

PATIENCE = 30.0
"""Seconds until a test gives up on what should be there by then, however busy the machine is."""
SOON = 5.0
"""The same for what the design promises within a second: the rest is for a busy machine."""


class Mailbox:
    """Lines that calls write (`tests.support.payloads.tell`), in the order they came."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        # Open for writing as well, so that it does not end when one writer does.
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._pending = b""

    def read(self, patience: float = PATIENCE) -> str:
        """The next line; fails if there is none in time."""
        deadline = time.monotonic() + patience
        while b"\n" not in self._pending:
            ready, _, _ = select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"nothing was written to {self.path} within {patience:g} s; so far: {self._pending!r}"
            self._pending += os.read(self._fd, 65536)
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()

    def numbers(self, count: int) -> list[int]:
        """The next `count` lines, each a number."""
        return [int(self.read()) for _ in range(count)]

    def close(self) -> None:
        os.close(self._fd)


class Gate:
    """Where calls wait (`tests.support.payloads.wait_at`) until they are let through."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self._fd = os.open(path, os.O_RDWR)

    def open(self, count: int = 1) -> None:
        """Let so many through."""
        os.write(self._fd, b"." * count)

    def close(self) -> None:
        os.close(self._fd)


class Watch:
    """A process, held by its pidfd: its number may be used again, this cannot be."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.fd = os.pidfd_open(pid)

    def ended(self, patience: float = PATIENCE) -> bool:
        """Whether it ends within so many seconds."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return bool(poll.poll(patience * 1000))

    def close(self) -> None:
        os.close(self.fd)


@contextmanager
def watching(*pids: int) -> Iterator[list[Watch]]:
    """Watches on living processes."""
    watches = [Watch(pid) for pid in pids]
    try:
        yield watches
    finally:
        for watch in watches:
            watch.close()


@contextmanager
def killing(*pids: int) -> Iterator[list[Watch]]:
    """The same. Where the test fails they are killed, since the census after it does not find all of them."""
    with watching(*pids) as watches:
        try:
            yield watches
        finally:
            for watch in watches:
                if not watch.ended(0.0):
                    os.kill(watch.pid, signal.SIGKILL)


@contextmanager
def ending() -> Iterator[list[DragonflyExecutor]]:
    """A list of executors: what was put in is ended after that, whatever runs there."""
    executors: list[DragonflyExecutor] = []
    yield executors
    for executor in executors:
        executor.kill_workers()
        executor.shutdown()


def all_ended(watches: Iterable[Watch], patience: float = SOON) -> bool:
    """Whether all end within so many seconds together."""
    deadline = time.monotonic() + patience
    return all(watch.ended(max(0.0, deadline - time.monotonic())) for watch in watches)


def ended_of(watches: Iterable[Watch], count: int, patience: float = SOON) -> int:
    """How many have ended when at least `count` have, or when so many seconds have passed."""
    poll = select.poll()
    for watch in watches:
        poll.register(watch.fd, select.POLLIN)
    ended: set[int] = set()
    deadline = time.monotonic() + patience
    while len(ended) < count and (ready := poll.poll(max(0.0, deadline - time.monotonic()) * 1000)):
        for fd, _ in ready:
            poll.unregister(fd)
            ended.add(fd)
    return len(ended)


def without_addresses(value: object) -> str:
    """A name for a parameter of a test, the same in each process that collects the tests."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def error_of(future: Future[Any], patience: float = PATIENCE) -> BaseException:
    """What a call ended with; fails if it returned."""
    error = future.exception(timeout=patience)
    assert error is not None, f"the call returned {future.result()!r}"
    return error


def values(futures: Iterable[Future[Any]], patience: float = PATIENCE) -> list[Any]:
    """What the calls returned, in order. A generator's are all submitted first."""
    return [future.result(timeout=patience) for future in list(futures)]


class Settled:
    """Counts futures as they settle, whichever way."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self.count = 0

    def __call__(self, _future: Future[Any]) -> None:
        with self._condition:
            self.count += 1
            self._condition.notify_all()

    def wait(self, count: int, patience: float = PATIENCE) -> bool:
        """Whether so many have settled, within so many seconds."""
        with self._condition:
            return self._condition.wait_for(lambda: self.count >= count, patience)


# -- links that go wrong -----------------------------------------------------------------------------------------------

Meddle = Callable[[bytes], bytes]
"""What is done to bytes on their way."""


class Cut(Exception):
    """Ends the link, after the bytes that still pass."""

    def __init__(self, last: bytes) -> None:
        super().__init__()
        self.last = last


def unchanged(data: bytes) -> bytes:
    """Hands on what came."""
    return data


class SpoiledBackend(LocalBackend):
    """Real local runners, behind a link that does what the test says to the bytes that pass.

    Args:
        to_runner, to_parent: make the function through which all bytes go, for each runner anew.
    """

    def __init__(
        self,
        *,
        to_runner: Callable[[], Meddle] = lambda: unchanged,
        to_parent: Callable[[], Meddle] = lambda: unchanged,
    ) -> None:
        super().__init__()
        self._makers = (to_runner, to_parent)
        self.boots = 0

    def boot(self, request: BootRequest) -> Node:
        self.boots += 1
        node = super().boot(request)
        real: Any = node.stream
        ours, theirs = socket.socketpair()
        to_runner, to_parent = (make() for make in self._makers)
        for source, target, meddle in ((theirs, real, to_runner), (real, theirs, to_parent)):
            threading.Thread(target=_pump, args=(source, target, meddle), name="spoiled-link", daemon=True).start()
        node.stream = ours
        return node


def _pump(source: socket.socket, target: socket.socket, meddle: Meddle) -> None:
    with suppress(OSError):
        try:
            while data := source.recv(65536):
                target.sendall(meddle(data))
        except Cut as cut:
            target.sendall(cut.last)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    # Each pump closes what it reads from: the other one may still be reading what this one writes to.
    source.close()


class Stall:
    """Lets bytes pass, until it is told to stop after so many more; then again when it is told to go on."""

    def __init__(self) -> None:
        self.stalled = threading.Event()
        self.go_on = threading.Event()
        self._left: int | None = None

    def after(self, size: int) -> None:
        """Stop after so many bytes from now on."""
        self._left = size

    def __call__(self, data: bytes) -> bytes:
        if self._left is not None:
            self._left -= len(data)
            if self._left <= 0:
                self._left = None
                self.stalled.set()
                assert self.go_on.wait(PATIENCE)
        return data


class ScriptedBackend(Backend):
    """Runners that are a thread each, which says what the test wants: peers that no real agent would be.

    Args:
        script: gets the stream and the runner's number; when it returns the link ends.
    """

    name = "scripted"
    default_max = 1

    def __init__(self, script: Callable[[socket.socket, int], None]) -> None:
        self._script = script

    def default_slots(self) -> int:
        return 2

    def boot(self, request: BootRequest) -> Node:
        ours, theirs = socket.socketpair()
        args = (theirs, request.runner_id)
        thread = threading.Thread(target=self._play, args=args, name="scripted-runner", daemon=True)
        thread.start()
        return _ScriptedNode(ours, thread)

    def _play(self, sock: socket.socket, number: int) -> None:
        with sock, suppress(OSError):
            self._script(sock, number)


class _ScriptedNode(Node):
    def __init__(self, stream: socket.socket, thread: threading.Thread) -> None:
        self.stream = stream
        self._thread = thread

    def stop(self) -> None:
        self._thread.join(PATIENCE)


def say_hello(sock: socket.socket) -> None:
    """The first frame of a runner whose versions fit."""
    sock.sendall(encode(Kind.HELLO, payload=handshake.hello("", versions())))


def frames_from(sock: socket.socket) -> Iterator[Frame]:
    """What the parent says, until it ends the link."""
    decoder = Decoder()
    while data := sock.recv(65536):
        yield from decoder.feed(data)


def first_call(frames: Iterator[Frame]) -> Frame:
    """The next call that the parent sends."""
    return next(frame for frame in frames if frame.kind == Kind.CALL)


def until_stop(frames: Iterator[Frame]) -> None:
    """Ignore what the parent says until it asks the runner to stop. Without that, a shutdown waits for seconds."""
    next((frame for frame in frames if frame.kind == Kind.STOP), None)


class Events:
    """What a pool tells its `on_event` hook."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Mapping[str, Any]] = SimpleQueue()
        self.heard: list[str] = []

    def __call__(self, event: Mapping[str, Any]) -> None:
        self._queue.put(event)

    def wait(self, what: str, patience: float = PATIENCE) -> Mapping[str, Any]:
        """The next event of this kind; fails if there is none in time."""
        while True:
            try:
                event = self._queue.get(timeout=patience)
            except Empty:
                raise AssertionError(f"no event {what!r} came; before it: {self.heard}") from None
            self.heard.append(event["event"])
            if event["event"] == what:
                return event
