"""The agent's half of a slot's output: which call a text belongs to, and how much of it is on its way at most."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from dragonfly_executor.protocol.frames import Decoder, Flag, Frame, Kind, encode
from dragonfly_executor.protocol.output_window import WINDOW, weight
from dragonfly_executor.runner import output_pipes, slot_output_forwarder
from dragonfly_executor.runner.slot_output_forwarder import (
    LAST_WORDS,
    LITTLE,
    LIVE_AFTER,
    DroppedOutput,
    SentOutput,
    maker,
)

PID = 77


class FakeLoop:
    def __init__(self) -> None:
        self.now = 0.0
        self.readers: dict[int, Callable[[], None]] = {}
        self.timers: list[Any] = []

    def time(self) -> float:
        return self.now

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        self.readers[fd] = callback

    def remove_reader(self, fd: int) -> None:
        self.readers.pop(fd, None)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Any:
        timer = SimpleNamespace(seconds=seconds, ring=callback, cancelled=False)
        timer.cancel = lambda: setattr(timer, "cancelled", True)
        self.timers.append(timer)
        return timer


class FakeLink:
    """A link with its two lanes."""

    def __init__(self) -> None:
        self.first: list[bytes] = []
        self.bulk: list[bytes] = []
        self.order: list[bytes] = []
        self.queued_bulk = 0

    def send(self, frame: bytes) -> None:
        self.first.append(frame)
        self.order.append(frame)

    def send_bulk(self, frame: bytes) -> None:
        self.bulk.append(frame)
        self.order.append(frame)


class Runner:
    """An agent with one slot, which has written to its pipes. `slot.link` notes what is done with it."""

    def __init__(self, log_level: int | None = 20) -> None:
        self.loop = FakeLoop()
        self.link = FakeLink()
        self.did: list[str] = []
        self.held_back = 0
        self.on_drain: Callable[[], None] = lambda: None
        self.slot: Any = SimpleNamespace(
            pid=PID,
            record=SimpleNamespace(is_ready=False, is_stuck=False, since=0.0, in_flight=deque()),
            answer=None,
            link=SimpleNamespace(
                is_paused=False,
                pause=lambda: self.did.append("pause"),
                resume=lambda: self.did.append("resume"),
                drain_reads=self._drain,
                send=lambda frame: self.did.append(f"told {Decoder().feed(frame)[0].kind}"),
            ),
        )
        loop, link, dispatcher = self.loop, self.link, self
        self.output = SentOutput(loop, link, dispatcher, log_level)  # type: ignore[arg-type]
        pipes = self.output._pipes
        self.writing = {flags: pipes._writing[place] for place, flags in enumerate(pipes.sources.values())}
        self.reading = {flags: fd for fd, flags in pipes.sources.items()}
        # What slot and agent hold together is here in one process: the writing ends stay open.
        pipes._writing = []
        self.output.slot_is_forked(self.slot)

    def _drain(self) -> None:
        self.did.append("drain")
        self.on_drain()

    def hold_back(self, slot: Any) -> None:
        """Take back all calls but the first, as the dispatcher does."""
        self.held_back += 1
        while len(slot.record.in_flight) > 1:
            slot.record.in_flight.pop()
        slot.record.is_stuck = True

    def has_calls(self, *call_ids: int) -> None:
        self.slot.record.is_ready = True
        self.slot.record.in_flight = deque(SimpleNamespace(ref=(call_id, call_id + 1)) for call_id in call_ids)

    def write(self, data: bytes, flags: int = 0) -> None:
        """Write as the slot does, and let the loop see it."""
        os.write(self.writing[flags], data)
        self.see(flags)

    def see(self, flags: int = 0) -> None:
        if self.reading[flags] in self.loop.readers:
            self.loop.readers[self.reading[flags]]()

    @property
    def watches(self) -> bool:
        return self.reading[0] in self.loop.readers

    def sent(self) -> list[Frame]:
        frames = [frame for raw in self.link.order for frame in Decoder().feed(raw)]
        self.link.order.clear()
        return frames

    def texts(self) -> list[tuple[int, int, int, bytes]]:
        """Return what was sent: call, attempt, flags, text."""
        sent = self.sent()
        assert all(frame.kind == Kind.OUTPUT and frame.detail == PID for frame in sent)
        return [(frame.call_id, frame.attempt, frame.flags, bytes(frame.payload)) for frame in sent]

    def close(self) -> None:
        self.output.close()
        for fd in self.writing.values():
            os.close(fd)


@pytest.fixture
def runner() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    runner.close()


# -- whose text it is --------------------------------------------------------------------------------------------------


def test_text_before_a_slot_is_ready_is_nobodys(runner: Runner) -> None:
    runner.slot.record.in_flight.append(SimpleNamespace(ref=(5, 6)))
    runner.write(b"setup")
    assert runner.texts() == [(0, 0, 0, b"setup")]


def test_text_of_a_slot_without_a_call_is_nobodys(runner: Runner) -> None:
    runner.has_calls()
    runner.write(b"between")
    assert runner.texts() == [(0, 0, 0, b"between")]


@pytest.mark.parametrize("flags", [0, Flag.STDERR, Flag.LOG])
def test_text_of_a_single_call_is_its_own_and_more_waits_for_it(flags: int, runner: Runner) -> None:
    runner.has_calls(5)
    runner.write(b"text", flags)
    assert runner.texts() == [(5, 6, flags, b"text")]
    assert runner.slot.record.is_stuck, "the slot gets no other call until this one has ended"
    assert runner.did == ["drain"], "results that the slot has sent come first"
    assert runner.output._pipes.take_turn()


def test_text_belongs_to_the_call_that_is_first_after_results_were_read(runner: Runner) -> None:
    runner.has_calls(5, 6)
    calls = runner.slot.record.in_flight
    runner.on_drain = lambda: calls.popleft() if len(calls) > 1 else None
    runner.write(b"text")
    assert runner.texts() == [(6, 7, 0, b"text")]


def test_text_of_one_of_several_calls_is_left_to_the_slot_for_a_moment(runner: Runner) -> None:
    runner.has_calls(5, 6)
    runner.loop.now = LIVE_AFTER * 0.9
    runner.write(b"text")
    assert runner.texts() == []
    assert runner.held_back == 0
    assert not runner.loop.readers
    assert [timer.seconds for timer in runner.loop.timers] == [LIVE_AFTER]
    runner.loop.now = LIVE_AFTER
    runner.loop.timers[0].ring()
    assert runner.loop.readers.keys() == set(runner.reading.values())
    runner.see()
    assert runner.held_back == 1
    assert runner.texts() == [(5, 6, 0, b"text")]


def test_a_slot_that_took_another_call_meanwhile_keeps_its_text(runner: Runner) -> None:
    """Taking back came too late: which call writes is not certain, and only the slot knows."""
    runner.has_calls(5, 6)
    runner.loop.now = 1.0
    runner.hold_back = lambda slot: None  # type: ignore[method-assign]
    runner.write(b"text")
    assert runner.texts() == []
    assert not runner.watches
    assert len(runner.loop.timers) == 1


def test_text_is_left_to_the_slot_while_its_results_may_be_unread(runner: Runner) -> None:
    """A large result has paused the link, so that the first call without an answer may have ended."""
    runner.has_calls(5)
    runner.slot.link.is_paused = True
    runner.write(b"text")
    assert runner.texts() == []
    runner.slot.link.is_paused = False
    runner.loop.timers[0].ring()
    runner.see()
    assert runner.texts() == [(5, 6, 0, b"text")]


def test_text_is_left_to_the_slot_if_the_link_is_paused_while_its_call_is_made_certain(runner: Runner) -> None:
    runner.has_calls(5, 6)
    runner.loop.now = 1.0
    runner.on_drain = lambda: setattr(runner.slot.link, "is_paused", runner.held_back > 0)
    runner.write(b"text")
    assert runner.held_back == 1
    assert runner.texts() == []
    assert len(runner.loop.timers) == 1


def test_while_the_slot_reads_the_agent_does_not(runner: Runner) -> None:
    runner.has_calls(5)
    look = runner.loop.readers[runner.reading[0]]
    assert runner.output._pipes.take_turn()
    runner.write(b"text")
    look()
    assert runner.texts() == []
    assert len(runner.loop.timers) == 1, "one look, however often it was in vain"
    runner.output._pipes.give_turn()
    runner.loop.timers[0].ring()
    runner.see()
    assert runner.texts() == [(5, 6, 0, b"text")]
    runner.write(b"more")
    assert runner.texts() == [(5, 6, 0, b"more")]


def test_the_slot_is_told_that_it_may_begin(runner: Runner) -> None:
    runner.output.slot_is_ready(runner.slot)
    assert runner.did == [f"told {Kind.READY}"]


def test_a_pipe_that_has_ended_is_watched_no_more(runner: Runner) -> None:
    look = runner.loop.readers[runner.reading[0]]
    os.close(runner.writing.pop(0))
    runner.see()
    assert not runner.watches
    assert runner.loop.readers.keys() == {runner.reading[Flag.STDERR], runner.reading[Flag.LOG]}
    look()
    assert runner.texts() == []


# -- how much is on its way --------------------------------------------------------------------------------------------


def flood(runner: Runner, size: int, call_id: int = 5) -> list[bytes]:
    """Forward frames that the slot itself has sent, until more than `size` is on its way."""
    sent = []
    on_its_way = 0
    while on_its_way <= size:
        raw = encode(Kind.OUTPUT, call_id, bytes(8192), attempt=6, detail=PID)
        runner.output.forward(runner.slot, Decoder().feed(raw)[0])
        sent.append(raw)
        on_its_way += weight(raw)
    return sent


def test_a_little_text_goes_ahead_of_results_and_a_flood_behind_them(runner: Runner) -> None:
    runner.has_calls(5)
    sent = flood(runner, LITTLE)
    assert runner.link.first == sent[:-1]
    assert runner.link.bulk == sent[-1:]
    assert runner.did == []
    runner.output.send(b"a result")
    assert runner.link.bulk[-1] == b"a result", "it stays behind its call's text"


def test_after_a_flood_text_takes_the_first_lane_once_the_second_is_empty(runner: Runner) -> None:
    runner.has_calls(5)
    sent = flood(runner, LITTLE)
    total = sum(map(weight, sent))
    runner.link.queued_bulk = 1
    runner.output.consumed(runner.slot, total - LITTLE)
    runner.output.send(b"one")
    runner.link.queued_bulk = 0
    runner.output.consumed(runner.slot, 0)
    runner.output.send(b"two")
    assert runner.link.bulk[-1] == b"one"
    assert runner.link.first[-1] == b"two"


def test_more_text_than_the_lane_is_for_stays_a_flood(runner: Runner) -> None:
    runner.has_calls(5)
    total = sum(map(weight, flood(runner, LITTLE)))
    runner.output.consumed(runner.slot, total - LITTLE - 1)
    runner.output.send(b"one")
    assert runner.link.bulk[-1] == b"one"


def test_a_slot_whose_text_nobody_consumes_has_to_wait(runner: Runner) -> None:
    runner.has_calls(5)
    look = runner.loop.readers[runner.reading[0]]
    assert runner.output._pipes.take_turn()
    runner.write(b"text")
    runner.output._pipes.give_turn()
    total = sum(map(weight, flood(runner, WINDOW)))
    runner.link.order.clear()
    assert runner.did == ["pause"]
    look()
    runner.loop.timers[0].ring()
    assert not runner.loop.readers
    assert runner.texts() == []
    runner.output.consumed(runner.slot, total - WINDOW // 2 - 1)
    assert runner.did == ["pause"]
    runner.output.consumed(runner.slot, 1)
    assert runner.did == ["pause", "resume"]
    assert runner.watches
    runner.output.consumed(runner.slot, 1)
    assert runner.did == ["pause", "resume"], "once"


def test_reading_stops_where_the_window_ends(runner: Runner) -> None:
    runner.has_calls(5)
    flood(runner, WINDOW - 20_000)
    runner.link.order.clear()
    os.write(runner.writing[0], bytes(60_000))
    runner.see()
    assert "pause" in runner.did
    read = sum(len(text) for _, _, _, text in runner.texts())
    assert 0 < read <= 60_000
    assert runner.output._pipes.take_turn(), "the slot may read what is left"


# -- the end of a call -------------------------------------------------------------------------------------------------


def test_the_end_of_a_calls_text_comes_before_its_result(runner: Runner) -> None:
    runner.has_calls(5)
    runner.write(b"text", Flag.STDERR)
    result = encode(Kind.RESULT, 5, b"result", attempt=6)
    runner.slot.answer(result)
    text, end, last = runner.sent()
    assert bytes(text.payload) == b"text"
    assert (end.kind, end.call_id, end.attempt, end.flags, end.detail) == (Kind.OUTPUT, 5, 6, Flag.END, PID)
    assert last.raw == result
    assert runner.slot.answer is None
    assert runner.output.last_output() == ""


def test_text_that_is_no_calls_has_no_end(runner: Runner) -> None:
    runner.write(b"setup", Flag.STDERR)
    assert runner.slot.answer is None
    assert runner.output.last_output() == ""


def test_the_end_counts_as_text_that_is_on_its_way(runner: Runner) -> None:
    runner.has_calls(5)
    runner.write(b"text")
    before = runner.output._on_its_way
    runner.slot.answer(encode(Kind.RESULT, 5, attempt=6))
    assert runner.output._on_its_way == before + weight(encode(Kind.OUTPUT, 5, flags=Flag.END))


def test_a_crash_shows_the_last_of_what_the_call_wrote_to_stderr(runner: Runner) -> None:
    runner.has_calls(5)
    runner.write(b"out")
    runner.write("ä".encode()[1:] + b"first", Flag.STDERR)
    assert runner.output.last_output() == "\ufffdfirst"
    runner.write(b"x" * (LAST_WORDS - 3) + b"end", Flag.STDERR)
    assert runner.output.last_output() == "x" * (LAST_WORDS - 3) + "end"
    runner.write(b"y", Flag.STDERR)
    assert runner.output.last_output() == "x" * (LAST_WORDS - 4) + "endy"


def test_what_a_slot_wrote_before_it_died_is_its_calls(runner: Runner) -> None:
    runner.has_calls(5, 6)
    os.write(runner.writing[0], b"out")
    os.write(runner.writing[Flag.STDERR], b"err")
    runner.output.slot_has_ended(runner.slot)
    assert runner.texts() == [(5, 6, 0, b"out"), (5, 6, Flag.STDERR, b"err")]
    assert runner.output.last_output() == "err"


def test_nothing_is_left_of_an_output_that_is_closed(runner: Runner) -> None:
    fds = set(runner.output.descriptors())
    assert set(runner.reading.values()) < fds
    assert runner.output._pipes.take_turn()
    runner.write(b"text")
    assert runner.loop.timers
    assert not runner.loop.readers
    runner.output.slot_is_forked(runner.slot)
    runner.output.close()
    assert runner.loop.timers[0].cancelled
    assert runner.loop.readers == {}
    assert runner.output.descriptors() == [-1, -1]


# -- which output a slot has -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["drop", "read"])
def test_the_parent_says_what_becomes_of_output(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    occupied: list[bool] = []
    monkeypatch.setattr(output_pipes, "occupy_standard_descriptors", lambda: occupied.append(True))
    link: Any = FakeLink()
    loop: Any = FakeLoop()
    make = maker({"output": how, "log_level": 30}, loop, link, None)  # type: ignore[arg-type]
    output, another = make(), make()
    assert occupied == [True]
    assert type(output) is (DroppedOutput if how == "drop" else SentOutput)
    assert another is not output
    if isinstance(output, SentOutput):
        assert output._log_level == 30
        assert list(output._pipes.sources.values()) == [0, Flag.STDERR, Flag.LOG]
    output.close()
    another.close()


def test_a_slot_takes_its_pipes_over(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, ...]] = []
    monkeypatch.setattr(slot_output_forwarder, "SlotStreams", lambda *args: made.append(args))
    agent: Any = object()
    runner.output.take_over(agent)
    assert made == [(runner.output._pipes, agent, 20)]


def test_dropped_output_has_no_half_in_the_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[bool] = []
    monkeypatch.setattr(output_pipes, "drop", lambda: dropped.append(True))
    link: Any = FakeLink()
    output = DroppedOutput(link)
    assert output.take_over(None) is None  # type: ignore[arg-type]
    assert dropped == [True]
