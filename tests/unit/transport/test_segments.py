"""Segments of shared memory: no block has two users, bytes stay within the limit, and all memory comes back."""

from __future__ import annotations

import gc
import os
from contextlib import closing
from itertools import count
from mmap import mmap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from dragonfly_executor.engine.shared_memory import MemoryAccount
from dragonfly_executor.transport import received_segments, segment_file, segment_pool
from dragonfly_executor.transport.memory_channel import MessageKind, receive_message, send_message
from dragonfly_executor.transport.received_segments import ReceivedSegment
from dragonfly_executor.transport.segment_file import (
    CLOSED,
    FREE,
    HEADER,
    LENT,
    Words,
    check_file,
    make_file,
    mark_closed,
)
from dragonfly_executor.transport.segment_pool import Block, Segment, SegmentPool, block_count, block_size
from dragonfly_executor.transport.sockets import PACKETS, socketpair

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="there is no memfd")
KIB = 1024
LIMIT = 1500 * KIB


class Maker:
    """Makes segments within a limit, as the parent does."""

    def __init__(self, limit: int = LIMIT, room: int = 512 * KIB) -> None:
        self.account = MemoryAccount(limit, 1000)
        self.made: dict[int, tuple[int, int]] = {}
        self._numbers = count(1)
        self._room = room

    def make(self, size: int, needed: int) -> Segment | None:
        number = next(self._numbers)
        if needed > self.account.limit or not self.account.open(number):
            return None
        blocks = block_count(size, self._room)
        self.made[number] = size, blocks
        segment = Segment(number, size, blocks, self)
        segment.open()
        return segment

    def reserve(self, number: int, size: int) -> bool:
        return self.account.add(number, size)

    def closed(self, number: int) -> None:
        self.account.close(number)


def received(segment: Segment) -> ReceivedSegment:
    return ReceivedSegment(segment.size, segment.count, os.dup(segment.fd))


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def pattern(number: int, size: int) -> bytes:
    return bytes([number % 251 + 1]) * size


class Blocks(RuleBasedStateMachine):
    """One sender, one receiver, and payloads on their way between them."""

    sent = Bundle("sent")
    in_use = Bundle("in_use")

    @initialize()
    def begin(self) -> None:
        self.maker = Maker()
        self.users = {os.getpid()}
        self.pool = SegmentPool(self.maker, self.users)
        self.mapped: dict[int, ReceivedSegment] = {}
        self.taken: set[tuple[int, int]] = set()
        self.numbers = count()

    @rule(target=sent, size=st.sampled_from([1, 70 * KIB, 128 * KIB, 129 * KIB, 300 * KIB, 600 * KIB, 2000 * KIB]))
    def send(self, size: int) -> Any:
        number = next(self.numbers)
        data = pattern(number, size)
        block = self.pool.take([data[: size // 2], memoryview(data)[size // 2 :]], size)
        if block is None:
            return multiple()
        place = block.segment.number, block.index
        assert place not in self.taken
        self.taken.add(place)
        return block, data

    @rule(target=in_use, item=consumes(sent))
    def receive(self, item: tuple[Block, bytes]) -> Any:
        block, data = item
        number = block.segment.number
        if number not in self.mapped:
            self.mapped[number] = received(block.segment)
        view = self.mapped[number].lend(block.index, len(data), os.getpid())
        assert view == data
        self.pool.put(block)
        return [(number, block.index), view, data]

    @rule(item=consumes(sent))
    def withdraw(self, item: tuple[Block, bytes]) -> None:
        self.taken.discard((item[0].segment.number, item[0].index))
        self.pool.put(item[0])

    @rule(item=consumes(sent))
    def lose(self, item: tuple[Block, bytes]) -> None:
        self.taken.discard((item[0].segment.number, item[0].index))

    @rule(item=in_use, number=st.integers(0, 99))
    def write(self, item: list[Any], number: int) -> None:
        if item[1] is not None:
            item[2] = pattern(number, len(item[2]))
            item[1][:] = item[2]

    @rule(item=consumes(in_use))
    def drop(self, item: list[Any]) -> None:
        assert item[1] == item[2]
        self.taken.discard(item[0])
        item[1] = None

    @rule()
    def trim(self) -> None:
        self.pool.trim()

    @rule()
    def forget(self) -> None:
        self.mapped = {number: segment for number, segment in self.mapped.items() if not segment.is_closed}

    @invariant()
    def bytes_are_bounded(self) -> None:
        if hasattr(self, "maker"):
            assert self.maker.account.taken <= LIMIT

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            self.pool.clear()


TestBlocks = Blocks.TestCase
TestBlocks.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


def test_all_memory_comes_back() -> None:
    maker = Maker()
    pool = SegmentPool(maker, {os.getpid()})
    block = pool.take([b"x" * 100_000], 100_000)
    assert block is not None
    segment = received(block.segment)
    view = segment.lend(block.index, 100_000, os.getpid())
    inner = view[10:20]
    pool.put(block)
    del block
    assert pool.trim()
    del view
    assert pool.trim()
    assert bytes(inner) == b"x" * 10
    del inner
    assert not pool.trim()
    assert segment.is_closed
    assert maker.account.taken == 0


def test_the_same_warm_block_is_used_again_and_shows_no_older_bytes() -> None:
    pool = SegmentPool(Maker(), {os.getpid()})
    places = set()
    mapped: dict[int, ReceivedSegment] = {}
    for number in range(10):
        size = 100_000 - 1000 * number
        block = pool.take([pattern(number, size)], size)
        assert block is not None
        segment = mapped.setdefault(block.segment.number, received(block.segment))
        view = segment.lend(block.index, size, os.getpid())
        assert view == pattern(number, size)
        view[:] = bytes(size)  # the next user must not see this
        places.add((block.segment.number, block.index))
        pool.put(block)
        del view
    assert len(places) == 1
    pool.clear()


def test_a_payload_without_buffers_is_read_only_and_its_pages_are_not_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[int] = []
    monkeypatch.setattr(received_segments, "_is_changed", lambda _address, size: looked.append(size))
    pool = SegmentPool(Maker(), {os.getpid()})
    for buffers in (False, True, False):
        block = pool.take([b"s" * 300_000], 300_000)
        assert block is not None
        segment = received(block.segment)
        view = segment.lend(block.index, 300_000, os.getpid(), lambda view: bool(view[0]) and buffers)  # noqa: B023
        assert view.readonly is not buffers
        assert block.user == os.getpid()
        del view
        assert block.user == FREE
        pool.put(block)
    assert looked == [300_000]


@pytest.mark.parametrize("reason", ["the pages cannot be looked at", "the pages can be looked at"])
def test_changes_of_the_receiver_are_discarded(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    if "cannot" in reason:
        monkeypatch.setattr(received_segments, "_is_changed", lambda _address, _size: True)
    pool = SegmentPool(Maker(), {os.getpid()})
    block = pool.take([b"s" * 300_000], 300_000)
    assert block is not None
    segment = received(block.segment)
    view = segment.lend(block.index, 300_000)
    view[299_999] = 1
    assert block.view()[299_999] == ord("s")
    del view
    assert bytes(segment.lend(block.index, 300_000)) == b"s" * 300_000


def test_only_changed_pages_are_found_changed() -> None:
    from ctypes import addressof, c_char
    from mmap import ACCESS_COPY, mmap

    fd = os.memfd_create("test")
    os.write(fd, bytes(1 << 20))
    with mmap(fd, 1 << 20, access=ACCESS_COPY) as memory:
        os.close(fd)
        address = addressof(c_char.from_buffer(memory))
        assert sum(memory[::4096]) == 0
        assert not received_segments._is_changed(address, 1 << 20)
        memory[700_000] = 1
        gc.collect()
        assert received_segments._is_changed(address, 1 << 20)
        assert not received_segments._is_changed(address, 600_000)


def test_a_block_of_a_dead_receiver_is_never_used_again() -> None:
    users = {os.getpid()}
    pool = SegmentPool(Maker(room=1), users)
    block = pool.take([b"x"], 1)
    assert block is not None
    number = block.segment.number
    view = received(block.segment).lend(block.index, 1, os.getpid())
    pool.put(block)
    del block
    users.clear()
    again = pool.take([b"y"], 1)
    assert again is not None
    assert again.segment.number != number
    assert bytes(view) == b"x"


def test_a_lent_block_waits_for_its_receiver() -> None:
    pool = SegmentPool(Maker(room=1), ())
    block = pool.take([b"x"], 1)
    assert block is not None
    assert block.user == FREE
    block.lend()
    assert Words(block.segment.fd, None)[block.index] == LENT
    pool.put(block)
    other = pool.take([b"y"], 1)
    assert other is not None
    assert other is not block


def test_words_are_the_same_in_the_file_and_in_a_mapping(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    make_file(KIB, 3, opened)
    with closing(mmap(opened[0], HEADER)) as header:
        mapped, read = Words(opened[0], header), Words(opened[0], None)
        monkeypatch.setattr(segment_file, "STORES_ARE_ORDERED", False)
        weak = Words(opened[0], header)
        for number, words in enumerate((mapped, read, weak)):
            words[2] = LENT + number
            assert [one[2] for one in (mapped, read, weak)] == [LENT + number] * 3
        mark_closed(opened[0])
        assert [one[CLOSED] for one in (mapped, read, weak)] == [1] * 3
        assert [one[index] for one in (mapped, read, weak) for index in (1, 3)] == [FREE] * 6
        del mapped, read, weak, words
    os.close(opened[0])


def test_a_mapped_segment_has_two_descriptors() -> None:
    pool = SegmentPool(Maker(), ())
    block = pool.take([b"x"], 1)
    assert block is not None
    before = open_descriptors()
    segment = received(block.segment)
    assert open_descriptors() == before + 2
    del segment
    assert open_descriptors() == before


def test_no_memory_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    maker = Maker()
    pool = SegmentPool(maker, ())
    monkeypatch.setattr(os, "pwritev", lambda *_args: (_ for _ in ()).throw(OSError(12, "no memory")))
    assert pool.take([b"x" * 100_000], 100_000) is None
    assert maker.account.taken == 0
    monkeypatch.undo()
    assert pool.take([b"x" * 100_000], 100_000) is not None


def test_a_file_is_written_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    pwritev = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda fd, views, at: pwritev(fd, [views[0][:1000]], at))
    pool = SegmentPool(Maker(), ())
    parts = [bytes([number]) * 700 for number in range(200)]
    block = pool.take(parts, 140_000)
    assert block is not None
    assert bytes(block.view()[:140_000]) == b"".join(parts)


def test_without_address_space_the_receiver_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_options: Any) -> Any:
        raise OSError(12, "no memory")

    pool = SegmentPool(Maker(), ())
    block = pool.take([b"x" * 5000], 5000)
    assert block is not None
    block.lend()
    monkeypatch.setattr(received_segments, "mmap", refuse)
    view = received(block.segment).lend(block.index, 5000)
    assert view == b"x" * 5000
    assert block.user == FREE
    view[0] = 0
    monkeypatch.setattr(segment_pool, "mmap", refuse)
    assert block.write([b"y" * 5000], 5000)
    assert os.pread(block.segment.fd, 1, 4096) == b"y"


def test_a_file_that_may_shrink_or_is_too_small_is_refused() -> None:
    fd = os.memfd_create("test")
    os.ftruncate(fd, 1 << 20)
    with pytest.raises(OSError, match="may shrink"):
        check_file(fd, 4096, 1)
    os.close(fd)
    opened: list[int] = []
    make_file(4096, 2, opened)
    (fd,) = opened
    with pytest.raises(OSError, match="smaller"):
        check_file(fd, 4096, 3)
    with pytest.raises(OSError, match="not permitted"):
        os.ftruncate(fd, 0)
    os.close(fd)


@pytest.mark.parametrize("size", [1, 128 * KIB, 128 * KIB + 1, 3 << 20, 3 << 30])
def test_blocks_are_powers_of_two(size: int) -> None:
    found = block_size(size)
    assert size <= found
    assert found & (found - 1) == 0
    assert found == 128 * KIB or found < 2 * size


def test_an_account_bounds_bytes_and_segments() -> None:
    account = MemoryAccount(100, 2)
    assert account.open(1, 60)
    assert not account.open(2, 41)
    assert account.open(2, 40)
    assert not account.open(3)
    assert not account.add(1, 1)
    account.close(2)
    assert account.add(1, 40)
    assert account.taken == 100


def test_messages_carry_descriptors() -> None:
    one, other = socketpair(PACKETS)
    with one, other:
        fd = os.memfd_create("test")
        os.write(fd, b"shared")
        send_message(one, MessageKind.OFFER, 5, 6, 7, fd=fd)
        os.close(fd)
        message = receive_message(other)
        assert message is not None
        assert message[:4] == (MessageKind.OFFER, 5, 6, 7)
        assert os.pread(message.fd, 10, 0) == b"shared"
        os.close(message.fd)
        with pytest.raises(BlockingIOError):
            receive_message(other, wait=False)
        one.send(b"junk")
        with pytest.raises(OSError, match="invalid message"):
            receive_message(other)
        one.close()
        assert receive_message(other) is None
