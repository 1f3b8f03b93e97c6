"""A slot's ring of results, with both of its sides in this process."""

from __future__ import annotations

import errno
import os
import select
from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor.core.slot_state import MAX_PREFETCH
from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.runner import result_ring
from dragonfly_executor.runner.result_ring import MAX_RESULT, SIZE, ResultRing
from dragonfly_executor.util import descriptors
from dragonfly_executor.util.descriptors import HIGH_NUMBER

pytestmark = pytest.mark.skipif(not hasattr(os, "eventfd"), reason="the ring needs an eventfd")


def make() -> ResultRing:
    ring = ResultRing.make()
    assert ring is not None
    return ring


class BothSides:
    """A ring, and a second object for the side of the slot, as a fork makes it."""

    def __init__(self) -> None:
        self.agent = make()
        self.slot = ResultRing.__new__(ResultRing)
        self.slot.__dict__.update(self.agent.__dict__)

    def close(self) -> None:
        self.agent.close()


@pytest.fixture
def sides() -> Iterator[BothSides]:
    sides = BothSides()
    yield sides
    sides.close()


def is_readable(ring: ResultRing) -> bool:
    return bool(select.select([ring.fileno()], [], [], 0)[0])


def test_the_agent_takes_all_results_at_once(sides: BothSides) -> None:
    assert not is_readable(sides.agent)
    assert sides.agent.take() == b""
    assert sides.slot.put(b"one")
    assert sides.slot.put(b"three")
    assert is_readable(sides.agent)
    assert sides.agent.take() == b"onethree"
    assert not is_readable(sides.agent)
    assert sides.agent.take() == b""


def test_a_large_result_does_not_go_through_the_ring(sides: BothSides) -> None:
    assert not sides.slot.put(bytes(MAX_RESULT + 1))
    assert sides.agent.take() == b""
    assert sides.slot.put(bytes(MAX_RESULT))
    assert sides.agent.take() == bytes(MAX_RESULT)


def test_there_is_room_for_the_largest_result_of_each_call_that_a_slot_may_hold() -> None:
    assert (MAX_PREFETCH + 1) * MAX_RESULT <= SIZE


@given(sizes=st.lists(st.lists(st.integers(1, MAX_RESULT), max_size=MAX_PREFETCH + 1), max_size=12), skip=st.data())
def test_results_arrive_as_they_were_written(sizes: list[list[int]], skip: st.DataObject) -> None:
    """Each list is written in one go, and a slot never holds more results than calls."""
    sides = BothSides()
    try:
        unread: deque[bytes] = deque()
        for number, batch in enumerate(sizes):
            for place, size in enumerate(batch):
                if len(unread) == MAX_PREFETCH + 1:
                    assert sides.agent.take() == b"".join(unread)
                    unread.clear()
                unread.append(bytes([number, place % 251]) * (size // 2) + b"." * (size % 2))
                assert sides.slot.put(unread[-1])
            if skip.draw(st.booleans()):
                assert sides.agent.take() == b"".join(unread)
                unread.clear()
        assert sides.agent.take() == b"".join(unread)
    finally:
        sides.close()


def test_a_result_may_end_exactly_at_the_end_of_the_memory(sides: BothSides) -> None:
    for _ in range(SIZE // 1024):
        assert sides.slot.put(b"x" * 1024)
        assert sides.agent.take() == b"x" * 1024
    assert sides.slot.put(b"first again")
    assert sides.agent.take() == b"first again"


def test_a_size_that_no_slot_announces_is_refused(sides: BothSides) -> None:
    os.eventfd_write(sides.agent.fileno(), SIZE + 1)
    with pytest.raises(ProtocolError, match=str(SIZE + 1)):
        sides.agent.take()


def test_the_slots_descriptor_gets_a_high_number() -> None:
    """Files that a call opens, after it has closed all descriptors, do not get this number."""
    ring = make()
    before = ring.fileno()
    try:
        ring.begin_to_write()
        assert ring.fileno() >= HIGH_NUMBER
        assert not os.get_inheritable(ring.fileno())
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            os.fstat(before)
        assert ring.put(b"result")
        assert os.eventfd_read(ring.fileno()) == len(b"result")
    finally:
        ring.close()


def test_without_a_high_number_the_slot_keeps_its_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "HIGH_NUMBER", 1 << 30)
    ring = make()
    before = ring.fileno()
    try:
        ring.begin_to_write()
        assert ring.fileno() == before
        assert ring.put(b"result")
        assert os.eventfd_read(ring.fileno()) == len(b"result")
    finally:
        ring.close()


def test_a_slot_whose_descriptor_was_closed_fails(sides: BothSides) -> None:
    number = os.dup(sides.agent.fileno())
    os.close(number)
    sides.slot._doorbell = number
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        sides.slot.put(b"result")


def test_closing_twice_closes_no_other_file() -> None:
    ring = make()
    number = ring.fileno()
    ring.close()
    other = os.open(os.devnull, os.O_RDONLY)
    try:
        assert other == number
        ring.close()
        os.fstat(other)
    finally:
        os.close(other)
    assert ring.fileno() == -1


def test_without_eventfd_there_is_no_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "eventfd")
    assert ResultRing.make() is None


def test_without_a_descriptor_no_memory_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: int) -> int:
        raise OSError(errno.EMFILE, "no descriptor")

    made: list[FakeMemory] = []
    monkeypatch.setattr(os, "eventfd", fail)
    monkeypatch.setattr(result_ring, "mmap", lambda *_: made.append(FakeMemory()) or made[-1])
    with pytest.raises(OSError, match="no descriptor"):
        ResultRing()
    assert made[0].closed


class FakeMemory:
    closed = False

    def close(self) -> None:
        self.closed = True
