"""The agent hands calls to slots: none is forgotten, and none waits behind a long one. Slots and time are fakes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from dragonfly_executor.protocol.frames import LIMITS, Decoder, Flag, Frame, Kind, encode
from dragonfly_executor.runner.dispatch import Dispatcher
from dragonfly_executor.runner.slot_handle import Work

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

    def __init__(self, clock: Clock, pid: int) -> None:
        self.pid, self.since = pid, clock.now
        self.in_flight: deque[Work] = deque()
        self.ready, self.stuck, self.is_checking, self.retired, self.is_ending = True, False, False, False, False
        self.handed, self.kill_reason, self.answer, self.shows_call = 0, None, None, False
        self.progress = SimpleNamespace(began=lambda call_id, attempt: None)
        self.link = SimpleNamespace(drain_reads=lambda: None)
        self.taken: Work | None = None

    @property
    def is_idle(self) -> bool:
        return not self.in_flight

    def hand(self, work: Work) -> bool:
        work.slot = self  # type: ignore[assignment]
        self.in_flight.append(work)
        return True

    def take(self) -> None:
        """Take the first call: from now on it cannot be taken back."""
        self.taken = self.in_flight[0]

    def take_back(self) -> list[Work]:
        back = [work for work in self.in_flight if work is not self.taken]
        self.in_flight = deque(work for work in self.in_flight if work is self.taken)
        for work in back:
            work.slot = None
        return back

    def show_call(self, call_id: int) -> None:
        self.shows_call = bool(call_id)


class Stage:
    """A dispatcher with slots that are forked as it asks for them."""

    def __init__(self, slots: int) -> None:
        self.clock = Clock()
        self.sent: list[tuple[Kind, int]] = []
        loop: Any = self.clock
        self.dispatcher = Dispatcher(loop, self._send, self._fork)
        self.dispatcher.lineup.max_slots = slots

    def _send(self, frame: bytes) -> None:
        (found,) = Decoder().feed(frame)
        self.sent.append((Kind(found.kind), found.call_id))

    def _fork(self) -> Any:
        return FakeSlot(self.clock, len(self.dispatcher.slots) + 1)

    @property
    def slots(self) -> list[Any]:
        return list(self.dispatcher.slots.values())

    def arrive(self, *frames: Frame) -> None:
        self.dispatcher.arriving.extend(map(Work, frames))
        self.dispatcher.dispatch()

    def answer(self, slot: Any, microseconds: int) -> None:
        """The slot ends its first call, and takes the next one."""
        call_id = slot.in_flight[0].call_id
        slot.taken = None
        (frame,) = Decoder().feed(encode(Kind.RESULT, call_id, b"", attempt=1, detail=microseconds))
        self.dispatcher.answered(slot, frame)
        if slot.in_flight:
            slot.take()
        self.dispatcher.dispatch()


def call(number: int, budget: float | None = None) -> Frame:
    limits = b"" if budget is None else LIMITS.pack(budget, float("inf"))
    flags = 0 if budget is None else Flag.LIMITS
    (frame,) = Decoder().feed(encode(Kind.CALL, number, limits + b"x", attempt=1, flags=flags))
    return frame


def test_a_call_that_is_taken_back_does_not_go_behind_another_long_one() -> None:
    """Both slots run calls that do not end. The third one can start nowhere here, so another runner gets it."""
    stage = Stage(2)
    stage.arrive(call(1), call(2))
    stage.clock.advance(0.001)
    one, other = stage.slots
    for slot in (one, other):
        stage.answer(slot, SHORT)
    stage.arrive(call(11), call(12))
    one.take(), other.take()
    stage.clock.advance(1)
    stage.answer(one, SHORT)
    # Calls are cheap now, so these two go to the slot that is free. Neither ends.
    stage.arrive(call(13), call(14))
    one.take()
    stage.clock.advance(1)
    assert [[work.call_id for work in slot.in_flight] for slot in (one, other)] == [[13], [12]]
    assert (Kind.RETURNED, 14) in stage.sent
    assert (Kind.STARTED, 13) in stage.sent


@pytest.mark.parametrize("budget", [0.0, -1.0])
def test_a_call_whose_time_is_over_when_it_is_handed_out_takes_no_neighbour_with_it(budget: float) -> None:
    stage = Stage(1)
    stage.arrive(call(1, budget), call(2), call(3))
    (slot,) = stage.slots
    assert stage.sent == [(Kind.TIMED_OUT, 1)]
    here = [*slot.in_flight, *stage.dispatcher.waiting]
    assert [work.call_id for work in here] == [2, 3]
