"""A TCP proxy on loopback that delays, slows down, cuts or silences connections as networks do.

It runs on a thread of its own and is told what to do from any other. What it is told holds for the bytes that arrive
from then on, of all connections.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from tests.support.helpers import PATIENCE

PIECE = 16 * 1024
"""Maximum bytes that are forwarded at once: small, so that a rate is kept evenly."""
IN_FLIGHT = 1024
"""Maximum pieces in transit in one direction, which the delay holds."""


class Direction:
    """One direction of a connection, with its faults.

    Attributes:
        delay: seconds that each byte takes; jitter: seconds more at most, drawn anew for each piece.
        rate: bytes per second at most; None for any number.
        step: bytes that go out at once, in a packet of their own; None for as many as there are.
        silent: bytes are taken in and never come out, as behind a firewall that drops them.
        silent_after: so many bytes more come through, and then it is silent; None for never.
        stuck: bytes are not even taken in: the sender's window closes, as if the other side had stopped reading.
        cut_after: so many bytes more come through, and then both directions end, of this connection; None for never.
        abrupt: whether that end is a RST.
        flip: the number, counted from the connection's first byte, of a byte that has a bit turned over.
        passed: bytes that came through so far.
    """

    def __init__(self, seed: int = 0) -> None:
        self.delay = 0.0
        self.jitter = 0.0
        self.passed = 0
        self._free = asyncio.Event()
        self._random = random.Random(seed)
        self.heal()

    def heal(self) -> None:
        """Remove all faults."""
        self.delay = 0.0
        self.jitter = 0.0
        self.rate: float | None = None
        self.step: int | None = None
        self.silent = False
        self.silent_after: int | None = None
        self.cut_after: int | None = None
        self.abrupt = False
        self.flip: int | None = None
        self._free.set()

    @property
    def stuck(self) -> bool:
        """See above."""
        return not self._free.is_set()

    def flight_time(self) -> float:
        """Return the seconds that a piece of this size takes at the current rate."""
        return self.delay + self._random.uniform(0.0, self.jitter)

    async def taken(self) -> None:
        """Wait until this direction is not stuck."""
        await self._free.wait()

    def allow(self, data: bytes) -> tuple[bytes, bool]:
        """Return the bytes that come through, and True if the connection ends after them."""
        if self.silent:
            return b"", False
        if self.silent_after is not None:
            self.silent = len(data) >= self.silent_after
            data = data[: self.silent_after]
            self.silent_after -= len(data)
        cut = self.cut_after is not None and len(data) >= self.cut_after
        if self.cut_after is not None:
            data = data[: self.cut_after]
            self.cut_after -= len(data)
        if self.flip is not None and self.passed <= self.flip < self.passed + len(data):
            spoiled = bytearray(data)
            spoiled[self.flip - self.passed] ^= 1
            data = bytes(spoiled)
        self.passed += len(data)
        return data, cut


class FaultProxy:
    """A listener on a port of 127.0.0.1 that forwards each connection to `target`.

        with FaultProxy(("127.0.0.1", 22)) as proxy:
            proxy.tell(lambda: setattr(proxy.up, "delay", 0.025))

    Attributes:
        up, down: from the client to the target, and back.
        connections: how many clients have come.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self.up, self.down = Direction(1), Direction(2)
        self.connections = 0
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)

    @property
    def port(self) -> int:
        """Return the port on which the proxy listens."""
        return self.address[1]

    # -- from any thread ----------------------------------------------------------------------------------------------

    def tell(self, change: Callable[[], object]) -> None:
        """Run a function on the proxy's thread, and wait for it."""
        done = threading.Event()

        def make() -> None:
            try:
                change()
            finally:
                done.set()

        self._loop.call_soon_threadsafe(make)
        assert done.wait(PATIENCE)

    def slow(self, *, delay: float = 0.0, jitter: float = 0.0, rate: float | None = None) -> None:
        """Set the delay in seconds and the rate in bytes per second, for both directions."""

        def change() -> None:
            for way in (self.up, self.down):
                way.delay, way.jitter, way.rate = delay, jitter, rate

        self.tell(change)

    def silence(self, *ways: Direction) -> None:
        """Drop all bytes in these directions from now on; in both directions by default."""
        self.tell(lambda: [setattr(way, "silent", True) for way in ways or (self.up, self.down)])

    def silence_after(self, way: Direction, size: int) -> None:
        """Drop all bytes in this direction after `size` more bytes."""
        self.tell(lambda: setattr(way, "silent_after", size))

    def stick(self, way: Direction) -> None:
        """Stop reading in this direction until `release`."""
        self.tell(way._free.clear)

    def release(self, way: Direction) -> None:
        """Resume reading in this direction."""
        self.tell(way._free.set)

    def hold_little(self) -> None:
        """Give later connections small kernel buffers, so that a stuck direction soon blocks its sender."""
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)

    def heal(self) -> None:
        """Remove all faults. Connections that were cut stay cut."""
        self.tell(lambda: (self.up.heal(), self.down.heal()))

    def cut_after(self, way: Direction, size: int, *, abrupt: bool = False) -> None:
        """End a connection after `size` more bytes in this direction: with a RST if `abrupt`, otherwise with a FIN."""

        def change() -> None:
            way.cut_after, way.abrupt = size, abrupt

        self.tell(change)

    def flip_after(self, way: Direction, size: int) -> None:
        """Flip a bit of the byte that follows `size` more bytes in this direction."""
        self.tell(lambda: setattr(way, "flip", way.passed + size))

    def cut(self) -> None:
        """Close all connections now, each with a FIN."""
        self.tell(self._close_all)

    def reset(self) -> None:
        """Abort all connections now, each with a RST."""

        def change() -> None:
            for end in self._ends:
                _end_with_reset(end)
            self._close_all()

        self.tell(change)

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=self._listener))
        self._loop.run_forever()
        server.close()
        self._close_all()
        for task in self._tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        # Transports that were closed let go of their sockets in the next pass.
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def _close_all(self) -> None:
        for end in list(self._ends):
            end.transport.abort() if end.transport.is_closing() else end.close()
        self._ends.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._ends.add(writer)
        try:
            target_reader, target_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        self._ends.add(target_writer)
        self._start(self._carry(self.up, reader, target_writer, writer))
        self._start(self._carry(self.down, target_reader, writer, target_writer))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(
        self, way: Direction, source: asyncio.StreamReader, target: asyncio.StreamWriter, back: asyncio.StreamWriter
    ) -> None:
        """Forward the bytes of one direction until its end or a cut."""
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(IN_FLIGHT)
        arriving = self._loop.create_task(self._deliver(way, on_the_way, target, back))
        try:
            with suppress(OSError):
                while data := await source.read(PIECE):
                    await way.taken()
                    await on_the_way.put((self._loop.time() + way.flight_time(), data))
            await on_the_way.put((self._loop.time() + way.flight_time(), b""))
            await arriving
        finally:
            arriving.cancel()

    async def _deliver(
        self,
        way: Direction,
        on_the_way: asyncio.Queue[tuple[float, bytes]],
        target: asyncio.StreamWriter,
        back: asyncio.StreamWriter,
    ) -> None:
        ends = False
        while not ends:
            due, data = await on_the_way.get()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            if way.silent:
                # A FIN is a packet too, so a silent direction drops it.
                continue
            if not data:
                break
            allowed, ends = way.allow(data)
            if way.rate:
                await asyncio.sleep(len(allowed) / way.rate)
            with suppress(OSError):
                step = way.step or max(1, len(allowed))
                for start in range(0, len(allowed), step):
                    target.write(allowed[start : start + step])
                    await target.drain()
                    await asyncio.sleep(0)
        for end in (target, back) if ends else (target,):
            if ends and way.abrupt:
                _end_with_reset(end)
            end.close()
            self._ends.discard(end)
        if ends:
            way.cut_after, way.abrupt = None, False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


def _end_with_reset(end: asyncio.StreamWriter) -> None:
    """When it is closed its peer gets a RST."""
    sock = end.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
