"""Forked processes with a socket each: the least that a call in another process can cost in Python.

A call is one pickled frame and one `Future`. There is no thread, no queue, no supervision and no cancellation: a thread
that waits for a result reads the sockets. Many small frames travel in one system call, in both directions.
"""

from __future__ import annotations

import os
import pickle
import select
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

from benchmarks.adapters import Adapter

HEADER = struct.Struct("!Q")
TOGETHER = 1 << 16
"""Bytes of frames that are sent together. A larger payload is sent without a copy."""
READ = 1 << 18


class FrameSocket:
    """Frames of a length and bytes, over a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._unsent: deque[memoryview] = deque()
        self._small = bytearray()
        self._arrived = bytearray()

    def add(self, payload: bytes) -> int:
        """Keep a frame for the next `flush`. Return the bytes of the small frames that wait."""
        self._small += HEADER.pack(len(payload))
        if len(payload) < TOGETHER:
            self._small += payload
            return len(self._small)
        self._collect()
        self._unsent.append(memoryview(payload))
        return TOGETHER

    def flush(self, *, wait: bool) -> bool:
        """Send. Return False if frames are left because the socket is full; with `wait` there are none."""
        self._collect()
        while self._unsent:
            first = self._unsent[0]
            try:
                sent = self.sock.send(first, 0 if wait else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            if sent == len(first):
                self._unsent.popleft()
            else:
                self._unsent[0] = first[sent:]
        return True

    def _collect(self) -> None:
        if self._small:
            self._unsent.append(memoryview(bytes(self._small)))
            self._small.clear()

    def receive(self) -> list[memoryview]:
        """Wait for frames, and return them.

        Raises:
            EOFError: the other side has closed the socket.
        """
        while True:
            if len(self._arrived) >= HEADER.size:
                (size,) = HEADER.unpack_from(self._arrived)
                if size >= TOGETHER:
                    return [self._receive_large(size)]
                if len(self._arrived) >= HEADER.size + size:
                    return self._split()
            if not (data := self.sock.recv(READ)):
                raise EOFError
            self._arrived += data

    def _split(self) -> list[memoryview]:
        frames: list[memoryview] = []
        data, start = memoryview(bytes(self._arrived)), 0
        while start + HEADER.size <= len(data):
            (size,) = HEADER.unpack_from(data, start)
            if size >= TOGETHER or start + HEADER.size + size > len(data):
                break
            start += HEADER.size
            frames.append(data[start : start + size])
            start += size
        del self._arrived[:start]
        return frames

    def _receive_large(self, size: int) -> memoryview:
        payload = memoryview(bytearray(size))
        count = min(size, len(self._arrived) - HEADER.size)
        payload[:count] = memoryview(self._arrived)[HEADER.size : HEADER.size + count]
        self._arrived = self._arrived[HEADER.size + count :]
        while count < size:
            if not (more := self.sock.recv_into(payload[count:])):
                raise EOFError
            count += more
        return payload


class MapItem:
    """The result of one item of a map: less than a `Future`."""

    __slots__ = ("value",)

    def set_result(self, value: object) -> None:
        """Keep the value."""
        self.value = value


def run_chunk(fn: Callable[..., Any], values: list[Any]) -> list[Any]:
    """Call a function with each value."""
    return [fn(value) for value in values]


class BareSockets(Adapter):
    """Calls over bare sockets, in turn to each process."""

    make = "BareSockets({workers})"

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._sockets: list[FrameSocket] = []
        self._waiting: list[deque[Any]] = [deque() for _ in range(workers)]
        self._pids: list[int] = []
        self._next = 0
        for _ in range(workers):
            near, far = socket.socketpair()
            if not (pid := os.fork()):
                self._serve(far, [*(other.sock for other in self._sockets), near])
            far.close()
            self._pids.append(pid)
            self._sockets.append(FrameSocket(near))
        self._numbers = {frames.sock: number for number, frames in enumerate(self._sockets)}

    @staticmethod
    def _serve(sock: socket.socket, inherited: list[socket.socket]) -> None:
        """Run calls until the parent closes the socket. Does not return."""
        try:
            for other in inherited:  # or the other processes never see its end
                other.close()
            frames = FrameSocket(sock)
            while True:
                for payload in frames.receive():
                    fn, args = pickle.loads(payload)
                    frames.add(pickle.dumps(fn(*args), 5))
                frames.flush(wait=True)
        finally:
            os._exit(0)

    def submit(self, fn: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        future: Future[Any] = Future()
        self._send((fn, args), future)
        return lambda: self._result(future)

    def _send(self, call: tuple[Any, ...], cell: object) -> None:
        number = self._next
        self._next = (number + 1) % len(self._sockets)
        self._waiting[number].append(cell)
        if self._sockets[number].add(pickle.dumps(call, 5)) >= TOGETHER:
            self._flush()

    def _flush(self) -> None:
        full = [frames for frames in self._sockets if not frames.flush(wait=False)]
        while full:  # a process that cannot send its results does not read either
            ready, writable, _ = select.select(list(self._numbers), [frames.sock for frames in full], [])
            self._settle(ready)
            full = [frames for frames in full if frames.sock not in writable or not frames.flush(wait=False)]

    def _settle(self, ready: list[socket.socket]) -> None:
        for sock in ready:
            number = self._numbers[sock]
            waiting = self._waiting[number]
            for payload in self._sockets[number].receive():
                waiting.popleft().set_result(pickle.loads(payload))

    def _receive(self) -> None:
        self._flush()
        waiting = [frames.sock for frames, cells in zip(self._sockets, self._waiting, strict=True) if cells]
        # With one call at a time there is one socket to read, and nothing to choose from.
        self._settle(waiting if len(waiting) == 1 else select.select(waiting, [], [])[0])

    def _result(self, future: Future[Any]) -> object:
        while not future.done():
            self._receive()
        return future.result()

    def map(self, fn: Callable[..., Any], values: Iterable[Any], chunksize: int) -> list[Any]:
        items, cells = list(values), []
        for start in range(0, len(items), chunksize):
            cells.append(MapItem())
            chunk = items[start : start + chunksize]
            self._send((fn, (chunk[0],)) if chunksize == 1 else (run_chunk, (fn, chunk)), cells[-1])
        while any(self._waiting):
            self._receive()
        results = [cell.value for cell in cells]
        return results if chunksize == 1 else [value for chunk in results for value in chunk]  # type: ignore[attr-defined]

    def map_unsized(self, fn: Callable[..., Any], values: Iterable[Any]) -> list[Any]:
        return self.map(fn, values, 1000)

    def close(self) -> None:
        for frames in self._sockets:
            frames.sock.close()
        for pid in self._pids:
            os.waitpid(pid, 0)
