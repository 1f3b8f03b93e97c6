"""The way of calls to a slot: each call is with one side, whatever the other side does in between."""

from __future__ import annotations

import errno
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragonfly_executor.core.slot_records import SlotCall
from dragonfly_executor.protocol.frames import HEADER, MAX_INLINE, Kind, encode
from dragonfly_executor.runner import slot_calls
from dragonfly_executor.runner.slot_calls import PACKET_SIZE, SHARED_SIZE, CallReceiver, CallSender, SlotQueue


class SteppedReceiver(CallReceiver):
    """A slot's side in which the agent acts before each step that the kernel sees."""

    def __init__(self, queue: SlotQueue, between: Callable[[], None]) -> None:
        self.sock: Any = self
        self._receiver = queue.receiver
        self._claims = queue.claims
        self.packet = memoryview(bytearray(PACKET_SIZE))
        self._claimed = 0
        self.between = between

    def recv_into(self, packet: memoryview) -> int:
        self.between()
        return self._receiver.recv_into(packet)

    def _read_claim(self) -> int:
        self.between()
        number = super()._read_claim()
        self.between()
        return number


class Pair:
    """An agent and a slot. `in_flight` is what the agent knows of, and `answers` is what it has not read."""

    def __init__(self) -> None:
        queue = SlotQueue()
        queue.receiver.setblocking(False)
        self.agent = CallSender(queue)
        self.slot = SteppedReceiver(queue, self._between)
        self.frames = self.slot.calls()
        self.act: Callable[[Pair], None] = lambda pair: None
        self.is_acting = False
        self.in_flight: deque[SlotCall] = deque()
        self.waiting: deque[SlotCall] = deque()
        self.answers: deque[int] = deque()
        self.began: list[int] = []
        self.notices = 0
        self.made = 0

    def _between(self) -> None:
        if not self.is_acting:
            self.is_acting = True
            self.act(self)
            self.is_acting = False

    # -- the agent -----------------------------------------------------------------------------------------------------

    def arrive(self, count: int, size: int = 0) -> None:
        for _ in range(count):
            self.made += 1
            self.waiting.append(SlotCall(self.made, 1, encode(Kind.CALL, self.made, b"x" * size, attempt=1)))

    def hand(self, count: int) -> int:
        calls = [self.waiting.popleft() for _ in range(min(count, len(self.waiting)))]
        if not calls:
            return 0
        is_idle = not self.in_flight
        self.in_flight.extend(calls)
        handed = self.agent.hand(calls, is_idle=is_idle)
        for call in reversed(calls[handed:]):
            assert self.in_flight.pop() is call
            self.waiting.appendleft(call)
        return handed

    def read_answers(self) -> None:
        while self.answers:
            assert self.in_flight.popleft().call_id == self.answers.popleft()

    def take_back(self) -> list[int]:
        refs = self.agent.take_back(self.in_flight)
        taken = [call for call in self.in_flight if call.ref in refs]
        assert len(taken) == len(refs)
        assert not {call.call_id for call in taken} & set(self.began), "a call that has begun was taken back"
        self.in_flight = deque(call for call in self.in_flight if call.ref not in refs)
        self.waiting.extendleft(reversed(taken))
        # Of those that stay, the slot has answered all but one.
        assert len(self.in_flight) - len(self.answers) <= 1
        return [call.call_id for call in taken]

    # -- the slot ------------------------------------------------------------------------------------------------------

    def run(self, most: int = 1000) -> None:
        """Run calls until none is there."""
        try:
            for start, _ in self.frames:
                kind, _, _, _, call_id, _ = HEADER.unpack_from(self.slot.packet, start)
                if kind == Kind.SHARED_FORGET:
                    self.notices += 1
                    continue
                self.began.append(call_id)
                self._between()  # while the call runs
                self.answers.append(call_id)
                most -= 1
                if not most:
                    return
        except BlockingIOError:
            self.frames = self.slot.calls()

    def close(self) -> None:
        self.agent.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


STEPS = st.sampled_from(["nothing", "hand one", "hand three", "read", "take back", "read, hand one", "notify", "twice"])


@settings(max_examples=400)
@given(steps=st.lists(STEPS, max_size=60), first=st.lists(st.integers(1, 6), min_size=1, max_size=3))
def test_each_call_is_run_once_and_never_after_it_was_taken_back(steps: list[str], first: list[int]) -> None:
    """The agent acts between any two steps of the slot. At the end, all calls have run."""
    pair = Pair()
    left = deque(steps)
    noted = 0

    def act(pair: Pair) -> None:
        nonlocal noted
        step = left.popleft() if left else "nothing"
        if "read" in step:
            pair.read_answers()
        if step == "twice":
            pair.take_back()
            pair.hand(3)
        if "take back" in step or step == "twice":
            pair.take_back()
        if "hand one" in step:
            pair.hand(1)
        if step == "hand three":
            pair.hand(3)
        if step == "notify":
            pair.agent.notify(encode(Kind.SHARED_FORGET, payload=b"12345678"))
            noted += 1

    try:
        pair.act = act
        pair.arrive(20)
        for count in first:
            pair.hand(count)
        while left:
            pair.run(most=7)
            pair._between()
        while pair.waiting or pair.in_flight:
            pair.run()
            pair.read_answers()
            assert not pair.in_flight, "a call was handed, and neither run nor taken back"
            pair.hand(4)
        pair.run()
        assert Counter(pair.began) == Counter(range(1, 21))
        assert pair.notices == noted
    finally:
        pair.close()


def test_calls_are_run_in_order_and_many_come_in_one_packet(pair: Pair) -> None:
    pair.arrive(8)
    pair.hand(1)
    pair.hand(6)
    pair.hand(1)
    packets = []
    receive = pair.slot._receiver.recv_into

    class Counted:
        def recv_into(self, packet: memoryview) -> int:
            packets.append(receive(packet))
            return packets[-1]

    pair.slot._receiver = Counted()  # type: ignore[assignment]
    pair.run()
    assert pair.began == [*range(1, 9)]
    assert len(packets) == 3


def test_calls_behind_the_running_one_are_taken_back(pair: Pair) -> None:
    pair.arrive(5)
    pair.hand(5)
    taken: list[int] = []
    pair.act = lambda pair: taken.extend(pair.take_back()) if pair.began == [1] else None
    pair.run()
    assert taken == [2, 3, 4, 5]
    assert pair.began == [1]


@pytest.mark.parametrize("count", [1, 3])
def test_a_slot_that_has_taken_nothing_gives_all_back(count: int, pair: Pair) -> None:
    """It may be stopped, or dead."""
    pair.arrive(count + 2)
    pair.hand(count)
    pair.hand(2)
    pair.agent.notify(encode(Kind.SHARED_FORGET))
    assert pair.take_back() == [*range(1, count + 3)]
    pair.run()
    assert pair.began == []
    assert pair.notices == 1


def test_the_call_of_a_claim_is_not_stuck_behind_a_call_that_was_sent_alone(pair: Pair) -> None:
    """The slot reads a claim while it finds out that the rest of a packet was taken back."""
    pair.arrive(8)
    pair.hand(4)
    pair.run(most=1)
    pair.read_answers()
    assert pair.take_back() == [2, 3, 4]
    # The slot is idle for its agent, and has yet to look at the rest of the packet.
    pair.hand(1)
    pair.hand(3)
    stuck: list[int] = []

    def look(pair: Pair) -> None:
        if pair.began[-1:] == [2]:
            pair.act = lambda pair: None
            stuck.extend(pair.take_back())

    pair.act = look
    pair.run()
    assert stuck == [3, 4, 5]


def test_a_packet_that_is_taken_out_takes_its_claims_with_it(pair: Pair) -> None:
    """The slot may have read the first of them already."""
    pair.arrive(5)
    pair.hand(1)
    pair.hand(2)
    looks: list[int] = []
    taken: list[int] = []

    def look(pair: Pair) -> None:
        if pair.began == [1, 2]:
            looks.append(len(looks))
            if looks == [0]:
                assert pair.take_back() == [3]
                pair.hand(2)
            elif looks == [0, 1, 2]:
                taken.extend(pair.take_back())  # it has read the claim of call 3, and no answer was read

    pair.act = look
    pair.run()
    assert taken == [3, 4]
    pair.read_answers()
    assert not pair.in_flight
    pair.hand(3)
    pair.run()
    assert pair.began == [1, 2, 3, 4, 5]


def test_a_slot_that_is_faster_than_its_agent_finds_the_claims(pair: Pair) -> None:
    """It runs as soon as a packet is there."""
    send = pair.agent._sender.send

    class Sender:
        def send(self, packet: bytes, flags: int) -> None:
            send(packet, flags)
            pair.run()

    pair.agent._sender, sender = Sender(), pair.agent._sender  # type: ignore[assignment]
    pair.arrive(5)
    pair.hand(5)
    assert pair.began == [1, 2, 3, 4, 5]
    pair.agent._sender = sender


def test_a_call_is_sent_alone_again_after_the_rest_has_gone(pair: Pair) -> None:
    pair.arrive(6)
    pair.hand(3)
    pair.take_back()
    for claim in (True, False, False):
        pair.hand(1)
        assert bool(pair.in_flight[0].claim) == claim
        pair.run()
        pair.read_answers()
    assert pair.began == [1, 2, 3]


def test_a_packet_has_no_more_bytes_than_it_may(pair: Pair) -> None:
    pair.arrive(40, size=1024)
    assert pair.hand(40) == 40
    pair.run()
    assert pair.began == [*range(1, 41)]
    pair.read_answers()
    pair.arrive(2, size=MAX_INLINE)
    assert pair.hand(2) == 2
    pair.run()
    assert pair.began[-2:] == [41, 42]
    assert SHARED_SIZE < MAX_INLINE


def test_a_full_queue_refuses_the_rest_and_their_claims_are_void(pair: Pair) -> None:
    pair.arrive(30, size=MAX_INLINE)
    pair.hand(1)
    handed = pair.hand(29)
    assert 0 < handed < 29
    assert pair.hand(5) == 0
    pair.run()
    assert pair.began == [*range(1, handed + 2)]
    pair.read_answers()
    while pair.waiting:
        assert pair.hand(3)
        pair.run()
        pair.read_answers()
    assert pair.began == [*range(1, 31)]


def test_a_queue_without_its_slot_refuses_calls(pair: Pair) -> None:
    pair.agent._receiver.close()
    pair.arrive(2)
    assert pair.hand(1) == 0
    assert pair.hand(2) == 0


def test_a_retired_slot_ends_after_its_calls(pair: Pair) -> None:
    pair.arrive(4)
    pair.hand(3)
    pair.agent.retire()
    assert pair.hand(1) == 0
    pair.run()
    assert pair.began == [1, 2, 3]


def test_without_a_descriptor_nothing_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> tuple[int, int]:
        raise OSError(errno.EMFILE, "no descriptor")

    pairs: list[Any] = []

    def connect(kind: int) -> Any:
        pairs.append(make(kind))
        return pairs[0]

    make = slot_calls.socketpair
    monkeypatch.setattr(slot_calls, "socketpair", connect)
    monkeypatch.setattr(os, "pipe", fail)
    with pytest.raises(OSError, match="no descriptor"):
        SlotQueue()
    assert [end.fileno() for end in pairs[0]] == [-1, -1]


def test_closing_twice_closes_no_other_file(pair: Pair) -> None:
    assert len(pair.agent.descriptors()) == 4
    pair.agent.close()
    others = [os.dup(0) for _ in range(6)]
    pair.agent.close()
    for other in others:
        os.close(other)
    assert set(pair.agent.descriptors()) == {-1}
