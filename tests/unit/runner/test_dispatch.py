"""The agent hands calls to slots: none is forgotten, and none waits behind a long one. Slots and time are fakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from dragonfly_executor.core.slot_idle_check import LIMIT
from dragonfly_executor.core.slot_records import SlotCall, SlotRecord
from dragonfly_executor.core.slot_titles import SHOWN_AFTER
from dragonfly_executor.protocol.frames import CALL_OPTIONS, TOTAL, Decoder, Flag, Frame, Kind, encode
from dragonfly_executor.runner.dispatch import Dispatcher

SHORT, LONG = 10, 10_000
"""Microseconds."""


class Clock:
    """The loop, as far as the dispatcher knows it."""

    def __init__(self) -> None:
        self.now = 100.0
        self._timers: list[Any] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], object]) -> Any:
        return self.call_at(self.now + delay, callback)

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.call_at(self.now, callback)

    def call_at(self, when: float, callback: Callable[[], object]) -> Any:
        timer = SimpleNamespace(when=when, callback=callback)
        timer.cancel = lambda: self._timers.remove(timer) if timer in self._timers else None
        self._timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [timer for timer in self._timers if timer.when <= end]:
            timer = min(due, key=lambda timer: timer.when)
            self._timers.remove(timer)
            self.now = max(self.now, timer.when)
            timer.callback()
        self.now = end


class FakeSlot:
    """A slot that takes one call at a time, when it is told to."""

    def __init__(self, clock: Clock, pid: int, number: int, gpus: frozenset[int] | None) -> None:
        self.pid = pid
        self.record = SlotRecord(pid, clock.now, number, gpus)
        self.record.is_ready = True
        self.answer: Callable[[bytes], object] | None = None
        self.progress = SimpleNamespace(began=lambda call_id, attempt: None)
        self.link = SimpleNamespace(drain_reads=lambda: self.on_drain(), drain_until=self._drain_until)
        self.on_drain: Callable[[], object] = lambda: None
        self.reads = 0
        self.packets: list[bytes] = []
        self.shown: list[int] = []
        self.ends: list[str] = []
        self.is_full = False
        self.lacks_time = False

    def _drain_until(self, is_enough: Callable[[], bool]) -> None:
        """Read answers one by one: there are three at most."""
        for _ in range(3):
            if not is_enough():
                self.reads += 1
                self.on_drain()

    def is_starved(self, call: SlotCall) -> bool:
        return self.lacks_time

    def hand(self, calls: Sequence[SlotCall]) -> int:
        if self.is_full:
            return 0
        self.packets += [call.packet for call in calls]
        return len(calls)

    def take(self) -> None:
        """Take the first call: from now on it cannot be taken back."""
        del self.packets[0]

    def take_back(self) -> set[tuple[int, int]]:
        (*frames,) = Decoder().feed(b"".join(self.packets))
        self.packets.clear()
        return {(frame.call_id, frame.attempt) for frame in frames}

    def show_call(self, call_id: int) -> None:
        self.shown.append(call_id)

    def kill(self) -> None:
        self.ends.append("kill")

    def retire(self) -> None:
        self.ends.append("retire")

    def expect_end(self) -> None:
        self.ends.append("expect end")


class Stage:
    """A dispatcher with slots that are forked as it asks for them."""

    def __init__(self, slots: int, gpus: int = 0) -> None:
        self.clock = Clock()
        self.frames: list[Frame] = []
        self.fork_errors: list[OSError] = []
        loop: Any = self.clock
        self.dispatcher = Dispatcher(loop, self._send, self._fork)
        self.dispatcher.configure(slots, 0, 30.0, gpus)

    def _send(self, frame: bytes) -> None:
        self.frames += Decoder().feed(frame)

    @property
    def sent(self) -> list[tuple[Kind, int]]:
        return [(Kind(frame.kind), frame.call_id) for frame in self.frames]

    def _fork(self, numbers: Sequence[int], gpus: frozenset[int] | None) -> tuple[list[Any], OSError | None]:
        if self.fork_errors:
            return [], self.fork_errors[0]
        first = len(self.dispatcher.slots) + 1
        return [FakeSlot(self.clock, first + place, number, gpus) for place, number in enumerate(numbers)], None

    @property
    def slots(self) -> list[Any]:
        return list(self.dispatcher.slots.values())

    def arrive(self, *frames: Frame) -> None:
        for frame in frames:
            self.dispatcher.call_arrived(frame)
        self.dispatcher.dispatch()

    def answer(self, slot: Any, microseconds: int) -> None:
        """The slot ends its first call, and takes the next one."""
        call_id = slot.record.in_flight[0].call_id
        if [frame.call_id for frame in Decoder().feed(b"".join(slot.packets))][:1] == [call_id]:
            slot.take()
        self.dispatcher.answered(slot, [microseconds * 1e-6])
        if slot.record.in_flight:
            slot.take()
        self.dispatcher.dispatch()


def call(number: int, time_left: float | None = None) -> Frame:
    limits = b"" if time_left is None else CALL_OPTIONS.pack(time_left, float("inf"), 0, 0, 0)
    flags = 0 if time_left is None else Flag.OPTIONS
    (frame,) = Decoder().feed(encode(Kind.CALL, number, limits + b"x", attempt=1, flags=flags))
    return frame


def test_a_key_alone_is_no_limit() -> None:
    stage = Stage(1)
    payload = CALL_OPTIONS.pack(float("inf"), float("inf"), 7, 0, 0) + b"x"
    stage.arrive(*Decoder().feed(encode(Kind.CALL, 1, payload, attempt=1, flags=Flag.OPTIONS)))
    (slot,) = stage.slots
    (received,) = slot.record.in_flight
    assert (received.limits, received.key, received.gpus) == (None, 7, 0)


def test_cgroups_are_made_for_the_first_call_that_requires_memory_and_not_before() -> None:
    stage, made = Stage(2), []
    stage.dispatcher.on_memory_required = lambda: made.append(stage.slots)  # type: ignore[func-returns-value]
    stage.arrive(call(1, 5.0))
    assert made == []
    for number in (2, 3):
        payload = CALL_OPTIONS.pack(float("inf"), float("inf"), 0, 100, 0) + b"x"
        stage.arrive(*Decoder().feed(encode(Kind.CALL, number, payload, attempt=1, flags=Flag.OPTIONS)))
    assert [len(slots) for slots in made] == [1], "before a slot gets the call"


def test_a_call_that_requires_gpus_gets_a_slot_that_has_them() -> None:
    stage = Stage(2, gpus=3)
    payload = CALL_OPTIONS.pack(float("inf"), float("inf"), 0, 0, 2) + b"x"
    stage.arrive(*Decoder().feed(encode(Kind.CALL, 1, payload, attempt=1, flags=Flag.OPTIONS)))
    (slot,) = stage.slots
    assert slot.record.gpus == {0, 1}


def test_a_call_that_is_taken_back_does_not_go_behind_another_long_one() -> None:
    """Both slots run calls that do not end. The third one can start nowhere here, so another runner gets it."""
    stage = Stage(2)
    stage.arrive(call(1), call(2))
    stage.clock.advance(0.001)
    one, other = stage.slots
    for slot in (other, one):
        stage.answer(slot, SHORT)
    stage.arrive(call(11), call(12))
    one.take(), other.take()
    stage.clock.advance(1)
    stage.answer(one, SHORT)
    # Calls are cheap now, so these two go to the slot that is free. Neither ends.
    stage.arrive(call(13), call(14))
    one.take()
    stage.clock.advance(1)
    assert [[call.call_id for call in slot.record.in_flight] for slot in (one, other)] == [[13], [12]]
    assert (Kind.RETURNED, 14) in stage.sent
    assert (Kind.STARTED, 13) in stage.sent


@pytest.mark.parametrize("time_left", [0.0, -1.0])
def test_a_call_whose_time_is_over_when_it_is_handed_out_takes_no_neighbour_with_it(time_left: float) -> None:
    stage = Stage(1)
    stage.arrive(call(1, time_left), call(2), call(3))
    (slot,) = stage.slots
    assert stage.sent == [(Kind.TIMED_OUT, 1)]
    assert [call.call_id for call in slot.record.in_flight] == [2]
    stage.answer(slot, LONG)
    assert [call.call_id for call in slot.record.in_flight] == [3]


def frame(kind: Kind, call_id: int = 0, payload: bytes = b"", detail: int = 0, attempt: int = 1) -> Frame:
    (made,) = Decoder().feed(encode(kind, call_id, payload, attempt=attempt, detail=detail))
    return made


def test_a_call_goes_to_a_slot_as_it_came() -> None:
    stage = Stage(1)
    stage.arrive(call(1))
    (slot,) = stage.slots
    assert slot.packets == [call(1).raw]
    assert not stage.dispatcher.is_idle
    stage.answer(slot, SHORT)
    assert stage.dispatcher.is_idle
    assert stage.sent == []


def test_a_call_that_runs_for_a_while_is_reported_and_later_shown() -> None:
    stage = Stage(1)
    stage.arrive(call(1))
    (slot,) = stage.slots
    stage.clock.advance(0.01)
    assert stage.sent == [(Kind.STARTED, 1)]
    assert slot.shown == []
    stage.clock.advance(SHOWN_AFTER)
    assert slot.shown == [1]
    stage.answer(slot, LONG)
    stage.arrive(call(2))
    assert slot.shown == [1, 0]


def test_a_call_that_a_slot_refuses_is_handed_out_again() -> None:
    stage = Stage(1)
    stage.arrive(call(1))
    (slot,) = stage.slots
    stage.answer(slot, SHORT)
    slot.is_full = True
    stage.arrive(call(2), call(3))
    assert slot.packets == []
    slot.is_full = False
    stage.clock.advance(0.004)
    assert slot.packets == [call(2).raw, call(3).raw]


def test_a_call_that_is_killed_takes_its_slot_with_it_and_gone_is_said_once_it_has_ended() -> None:
    stage = Stage(1)
    stage.arrive(call(1))
    (slot,) = stage.slots
    slot.take()
    stage.dispatcher.kill(1, 1)
    assert slot.ends == ["kill"]
    assert stage.sent == []
    stage.dispatcher.slot_ended(slot, 9, tell=False)
    assert stage.sent == [(Kind.GONE, 1)]
    assert stage.slots == []


def test_a_call_whose_result_has_arrived_is_not_killed() -> None:
    """The slot runs on, and answers that come while the driver looks are handled first."""
    stage = Stage(1)
    stage.arrive(call(1), call(2))
    (slot,) = stage.slots
    slot.take()
    slot.on_drain = lambda: stage.answer(slot, SHORT) if slot.record.in_flight[0].call_id == 1 else None
    stage.dispatcher.kill(1, 1)
    assert slot.ends == []
    assert [each.call_id for each in slot.record.in_flight] == [2]
    assert slot.reads == 1, "what follows the result stays unread: it may be text beyond the window"


def test_the_end_of_a_call_is_said_behind_what_it_wrote() -> None:
    """Of one that was killed; of one that no slot had begun it is said at once."""
    stage = Stage(1)
    behind: list[bytes] = []
    stage.arrive(call(1), call(2))
    (slot,) = stage.slots
    slot.take()
    slot.answer = behind.append
    stage.dispatcher.kill(2, 1)
    stage.dispatcher.kill(1, 1)
    stage.dispatcher.slot_ended(slot, 9, tell=False)
    assert stage.sent == [(Kind.GONE, 2)]
    assert [(each.kind, each.call_id) for each in Decoder().feed(b"".join(behind))] == [(Kind.GONE, 1)]


def test_an_idle_check_over_its_limit_has_its_slot_killed_and_says_so() -> None:
    stage = Stage(1)
    stage.dispatcher.check_idle(frame(Kind.CHECK_IDLE, payload=b"check"))
    (slot,) = stage.slots
    slot.take()
    stage.clock.advance(LIMIT / 2)
    assert slot.ends == []
    stage.clock.advance(LIMIT)
    assert slot.ends == ["kill"]
    stage.dispatcher.slot_ended(slot, 9, tell=False)
    (told,) = stage.frames
    assert (told.kind, told.detail) == (Kind.IDLE, 0)
    assert b"within 10 s: its slot (process 1) was killed" in bytes(told.payload)


def test_an_answer_from_before_the_last_calls_keeps_the_runner() -> None:
    """The parent has asked again meanwhile: so calls came and went while the check ran."""
    stage = Stage(1)
    for _ in range(2):
        stage.dispatcher.check_idle(frame(Kind.CHECK_IDLE, payload=b"check"))
    (slot,) = stage.slots
    stage.dispatcher.check_answered(slot, may_stop=True)
    stage.dispatcher.check_idle(frame(Kind.CHECK_IDLE, payload=b"check"))
    stage.dispatcher.check_answered(slot, may_stop=True)
    stage.dispatcher.dispatch()
    assert [(each.kind, each.detail, bytes(each.payload)) for each in stage.frames] == [
        (Kind.IDLE, 0, b""), (Kind.IDLE, 1, b""),
    ]  # fmt: skip


def test_a_runner_that_cannot_fork_even_one_slot_ends() -> None:
    stage = Stage(1)
    stage.fork_errors.append(OSError("no room"))
    told: list[OSError] = []

    def end(error: OSError) -> None:
        told.append(error)
        stage.dispatcher.close()

    stage.dispatcher.on_no_slots = end
    stage.arrive(call(1))
    assert told == stage.fork_errors
    assert stage.sent == [(Kind.RETURNED, 1)]


def test_a_fork_that_fails_is_logged_once_and_tried_again(capfd: pytest.CaptureFixture[str]) -> None:
    stage = Stage(2)
    stage.arrive(call(1))
    stage.slots[0].take()
    stage.fork_errors.append(OSError("no room"))
    stage.arrive(call(2))
    stage.clock.advance(0.5)
    stage.arrive(call(3))
    stage.clock.advance(3.0)
    assert capfd.readouterr().err == "dragonfly runner: no room for another slot, only for 1: no room\n"
    # They may sit behind a long one here, so the parent has them back.
    assert stage.sent == [(Kind.STARTED, 1), (Kind.RETURNED, 2), (Kind.RETURNED, 3)]
    stage.fork_errors.clear()
    stage.arrive(call(4))
    stage.clock.advance(1.0)
    assert [len(slot.record.in_flight) for slot in stage.slots] == [1, 1]


def test_a_large_call_is_not_opened_before_all_of_it_is_here() -> None:
    stage = Stage(1)
    payload = CALL_OPTIONS.pack(float("inf"), 0.01, 0, 0, 0) + TOTAL.pack(100)
    (large,) = Decoder().feed(encode(Kind.CALL, 1, payload, attempt=1, flags=Flag.OPTIONS | Flag.LARGE))
    stage.arrive(large)
    (slot,) = stage.slots
    slot.take()
    stage.clock.advance(60.0)
    handed = stage.dispatcher.call(1, 1)
    assert handed is not None
    stage.dispatcher.payload_arrived(handed, 99)
    stage.clock.advance(60.0)
    assert slot.ends == []
    stage.dispatcher.payload_arrived(handed, 1)
    stage.clock.advance(29.0)
    assert slot.ends == []
    stage.clock.advance(2.0)
    assert slot.ends == ["kill"]
    stage.dispatcher.slot_ended(slot, 9, tell=False)
    told = stage.frames[-1]
    assert (told.kind, told.call_id) == (Kind.TIMED_OUT, 1)
    assert 29_000 < told.detail < 32_000
