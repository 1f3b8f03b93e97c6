"""The rate of a link's large payloads, on a socket that takes what the test says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dragonfly_executor.transport.link import Link

HEADER = bytes(24)


class Wire:
    """A loop and a socket in one, with a buffer of `room` bytes, and a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.room = 100_000
        self.writer: Callable[[], object] | None = None
        wire: Any = self
        self.link = Link(wire, wire, lambda frames: None, lambda reason: None)

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Nothing: the test flushes."""

    def add_reader(self, fd: int, callback: Callable[[], object]) -> None:
        """Nothing comes."""

    def add_writer(self, fd: int, callback: Callable[[], object]) -> None:
        self.writer = callback

    def remove_writer(self, fd: int) -> None:
        self.writer = None

    def setblocking(self, blocking: bool) -> None:
        """It never blocks."""

    def fileno(self) -> int:
        return 3

    def send(self, data: memoryview) -> int:
        return self.sendmsg([data])

    def sendmsg(self, pieces: list[memoryview]) -> int:
        if not self.room:
            raise BlockingIOError
        sent = min(self.room, sum(map(len, pieces)))
        self.room -= sent
        return sent

    def carry(self, size: int, seconds: float) -> None:
        """The network carries so many bytes in this time, and the loop sees that."""
        self.now += seconds
        self.room += size
        if self.writer is not None:
            self.writer()


@pytest.fixture
def wire() -> Wire:
    return Wire()


def test_the_rate_is_what_the_network_carries(wire: Wire) -> None:
    wire.link.send_bulk(HEADER, bytes(1_000_000))
    wire.link.flush()
    assert wire.link.bulk_rate.per_second() is None, "the buffer took these bytes, not the network"
    for _ in range(5):
        wire.carry(50_000, 0.01)
    assert wire.link.bulk_rate.per_second() == pytest.approx(5e6)


def test_what_a_buffer_takes_at_once_is_no_rate(wire: Wire) -> None:
    wire.room = 10_000_000
    for _ in range(9):
        wire.link.send_bulk(HEADER, bytes(1_000_000))
        wire.link.flush()
        wire.now += 1
    assert wire.link.bulk_rate.per_second() is None


def test_time_without_large_payloads_does_not_count(wire: Wire) -> None:
    wire.link.send_bulk(HEADER, bytes(200_000 - len(HEADER)))
    wire.link.flush()
    wire.carry(50_000, 0.1)
    wire.carry(60_000, 0.1)
    wire.carry(90_000, 1000.0)
    wire.link.send_bulk(HEADER, bytes(1_000_000))
    wire.link.flush()
    wire.carry(50_000, 0.1)
    assert wire.link.bulk_rate.per_second() == pytest.approx(5e5)
