"""Helpers for tests of running pools: read messages of calls, hold calls, watch processes end, disturb links.

A call writes to a FIFO, waits at a FIFO, and a process is watched through its pidfd. Only `becomes_true` asks again and
again, because a pool tells nobody that a call runs.
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

import pytest

from dragonfly_executor import DragonflyExecutor, Pool
from dragonfly_executor.backends.base import Backend, BootRequest, Node
from dragonfly_executor.backends.local import LocalBackend
from dragonfly_executor.protocol import handshake
from dragonfly_executor.protocol.frames import Decoder, Frame, Kind, encode
from dragonfly_executor.protocol.versions import versions
from dragonfly_executor.transport.link import Link
from tests.support.patience import PATIENCE, SOON


class Mailbox:
    """The lines that calls write (`tests.support.payloads.tell`), in order of arrival."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        # Open for writing as well, so that it does not end when one writer does.
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._pending = b""

    def read(self, patience: float = PATIENCE) -> str:
        """Return the next line. Fail if no line comes in time."""
        deadline = time.monotonic() + patience
        while b"\n" not in self._pending:
            ready, _, _ = select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"nothing was written to {self.path} within {patience:g} s; so far: {self._pending!r}"
            self._pending += os.read(self._fd, 65536)
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()

    def numbers(self, count: int) -> list[int]:
        """Return the numbers in the next `count` lines."""
        return [int(self.read()) for _ in range(count)]

    def close(self) -> None:
        os.close(self._fd)


class Gate:
    """A FIFO at which calls wait (`tests.support.payloads.wait_at`) until the test opens it."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self._fd = os.open(path, os.O_RDWR)

    def open(self, count: int = 1) -> None:
        """Let `count` calls continue."""
        os.write(self._fd, b"." * count)

    def close(self) -> None:
        os.close(self._fd)


class ProcessHandle:
    """A process, held by its pidfd. Its process id may be used again; the pidfd always means this process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.fd = os.pidfd_open(pid)

    def ended(self, patience: float = PATIENCE) -> bool:
        """Return True if the process ends within `patience` seconds."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return bool(poll.poll(patience * 1000))

    def close(self) -> None:
        os.close(self.fd)


@contextmanager
def watching(*pids: int, may_be_gone: bool = False) -> Iterator[list[ProcessHandle]]:
    """Yield a watch on each of these living processes. With `may_be_gone`, leave out those that have ended."""
    watches: list[ProcessHandle] = []
    try:
        for pid in pids:
            try:
                watches.append(ProcessHandle(pid))
            except ProcessLookupError:
                if not may_be_gone:
                    raise
        yield watches
    finally:
        for watch in watches:
            watch.close()


@contextmanager
def killing(*pids: int) -> Iterator[list[ProcessHandle]]:
    """Yield watches, and kill the processes that are left at the end: the census does not find all of them."""
    with watching(*pids) as watches:
        try:
            yield watches
        finally:
            for watch in watches:
                if not watch.ended(0.0):
                    os.kill(watch.pid, signal.SIGKILL)


@contextmanager
def ending() -> Iterator[list[DragonflyExecutor]]:
    """Yield a list. At the end, shut down the executors in it and kill their calls."""
    executors: list[DragonflyExecutor] = []
    yield executors
    for executor in executors:
        executor.kill_workers()
        executor.shutdown()


def all_ended(watches: Iterable[ProcessHandle], patience: float = SOON) -> bool:
    """Return True if all these processes end within `patience` seconds in total."""
    deadline = time.monotonic() + patience
    return all(watch.ended(max(0.0, deadline - time.monotonic())) for watch in watches)


def kill_and_wait(pid: int) -> None:
    """Kill a process, and return when it has ended."""
    with watching(pid) as watches:
        os.kill(pid, signal.SIGKILL)
        assert all_ended(watches)


def ended_of(watches: Iterable[ProcessHandle], count: int, patience: float = SOON) -> int:
    """Wait until `count` processes have ended, for at most `patience` seconds. Return how many have ended."""
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
    """Return a name for a test parameter that is the same in each process that collects the tests."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def error_of(future: Future[Any], patience: float = PATIENCE) -> BaseException:
    """Return the exception of a call. Fail if the call returned a result."""
    error = future.exception(timeout=patience)
    assert error is not None, f"the call returned {future.result()!r}"
    return error


def values(futures: Iterable[Future[Any]], patience: float = PATIENCE) -> list[Any]:
    """Return the results of these calls, in order. If `futures` is a generator, it submits all calls first."""
    return [future.result(timeout=patience) for future in list(futures)]


def becomes_true(pool: Pool, what: Callable[[], bool]) -> bool:
    """Return whether this holds in time. What a runner has said is heard one pass of the engine after another."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        pool.stats()
        if time.monotonic() > deadline:
            return False
    return True


class CountedNumbers:
    """All numbers from 0, and how many of them were taken."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        while True:
            self.taken += 1
            yield self.taken - 1


class Settled:
    """A callback that counts settled futures, with a result, an exception or cancelled."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self.count = 0

    def __call__(self, _future: Future[Any]) -> None:
        with self._condition:
            self.count += 1
            self._condition.notify_all()

    def wait(self, count: int, patience: float = PATIENCE) -> bool:
        """Return True if `count` futures settle within `patience` seconds."""
        with self._condition:
            return self._condition.wait_for(lambda: self.count >= count, patience)


def bytes_streamed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the sizes of what the parent sends over the stream from now on, behind small frames."""
    sizes: list[int] = []
    send_bulk = Link.send_bulk

    def counting(self: Link, header: Any, piece: Any = b"") -> None:
        sizes.append(len(piece))
        send_bulk(self, header, piece)

    monkeypatch.setattr(Link, "send_bulk", counting)
    return sizes


def bytes_streamed_since(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return a function that returns the sum of these sizes since it was last called."""
    sizes = bytes_streamed(monkeypatch)

    def ask() -> int:
        total = sum(sizes)
        sizes.clear()
        return total

    return ask


# -- links that go wrong -----------------------------------------------------------------------------------------------

ByteFilter = Callable[[bytes], bytes]
"""A function that returns the bytes to pass on in place of those it gets."""


class CutLink(Exception):
    """Raised by a `ByteFilter` to end the link after the bytes in `last`."""

    def __init__(self, last: bytes) -> None:
        super().__init__()
        self.last = last


def unchanged(data: bytes) -> bytes:
    """Pass the bytes on unchanged."""
    return data


class TamperingBackend(LocalBackend):
    """Real local runners behind links that change the bytes that pass.

    Args:
        to_runner, to_parent: make the function that changes the bytes in this direction; called once for each runner.
    """

    def __init__(
        self,
        *,
        to_runner: Callable[[], ByteFilter] = lambda: unchanged,
        to_parent: Callable[[], ByteFilter] = lambda: unchanged,
    ) -> None:
        # All that travels must pass the link.
        super().__init__(shared_memory=0)
        self._makers = (to_runner, to_parent)
        self.boots = 0

    def boot(self, request: BootRequest) -> Node:
        self.boots += 1
        node = super().boot(request)
        real: Any = node.stream
        ours, theirs = socket.socketpair()
        to_runner, to_parent = (make() for make in self._makers)
        for source, target, tamper in ((theirs, real, to_runner), (real, theirs, to_parent)):
            threading.Thread(target=_pump, args=(source, target, tamper), name="spoiled-link", daemon=True).start()
        node.stream = ours
        return node


def _pump(source: socket.socket, target: socket.socket, byte_filter: ByteFilter) -> None:
    with suppress(OSError):
        try:
            while data := source.recv(65536):
                target.sendall(byte_filter(data))
        except CutLink as cut:
            target.sendall(cut.last)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    # Each pump closes only its source: the other pump may still read from this pump's target.
    source.close()


class Stall:
    """A `ByteFilter` that passes bytes on, holds them after a number of bytes, and continues on request."""

    def __init__(self) -> None:
        self.stalled = threading.Event()
        self.go_on = threading.Event()
        self._left: int | None = None

    def after(self, size: int) -> None:
        """Hold the stream after `size` more bytes."""
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
    """Runners that are a thread each and follow a script, to send what no real agent sends.

    Args:
        script: called with the stream and the runner's number; the link ends when it returns.
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
    """Send the HELLO of a runner with matching versions."""
    sock.sendall(encode(Kind.HELLO, payload=handshake.hello("", versions())))


def frames_from(sock: socket.socket) -> Iterator[Frame]:
    """Yield the frames that the parent sends, until it closes the link."""
    decoder = Decoder()
    while data := sock.recv(65536):
        yield from decoder.feed(data)


def first_call(frames: Iterator[Frame]) -> Frame:
    """Return the next CALL frame."""
    return next(frame for frame in frames if frame.kind == Kind.CALL)


def until_stop(frames: Iterator[Frame]) -> None:
    """Ignore frames until the parent sends STOP. A runner that ignores STOP delays a shutdown by seconds."""
    next((frame for frame in frames if frame.kind == Kind.STOP), None)


class Events:
    """An `on_event` hook that keeps the events of a pool."""

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
