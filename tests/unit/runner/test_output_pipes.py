"""The pipes of a slot's output, with both of their ends in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from dragonfly_executor.protocol.frames import HEADER_SIZE, MAX_INLINE, Decoder, Flag, Frame, Kind
from dragonfly_executor.runner import output_pipes, slot_output
from dragonfly_executor.runner.output_pipes import MOST_READS, MOST_RECORDS, OutputPipes
from dragonfly_executor.runner.slot_output import SlotStreams


@pytest.fixture
def pipes() -> Iterator[OutputPipes]:
    pipes = OutputPipes(logs=True)
    yield pipes
    pipes.close()


def ends(pipes: OutputPipes) -> dict[int, tuple[int, int]]:
    """The reading and the writing end of each source, by the flags of its frames."""
    return dict(zip(pipes.sources.values(), zip(pipes._reading, pipes._writing, strict=True), strict=True))


def read(pipes: OutputPipes, fd: int, call_id: int = 5, attempt: int = 2, pid: int = 77) -> list[Frame]:
    decoder = Decoder()
    return [frame for raw in pipes.frames(fd, call_id, attempt, pid) for frame in decoder.feed(raw)]


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


# -- whose turn it is --------------------------------------------------------------------------------------------------


def test_one_side_reads_at_a_time(pipes: OutputPipes) -> None:
    assert pipes.take_turn()
    assert not pipes.take_turn()
    pipes.give_turn()
    assert pipes.wait_for_turn()
    assert not pipes.take_turn()


def test_a_side_waits_for_its_turn_no_longer_than_it_has_to(
    pipes: OutputPipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def poll() -> Any:
        return SimpleNamespace(register=lambda fd, events: None, poll=waits.append)

    monkeypatch.setattr(output_pipes.select, "poll", poll)
    assert not pipes.wait_for_turn()
    assert waits == [1000.0]


def test_who_waits_tries_again_if_the_other_side_was_faster(
    pipes: OutputPipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([True, True, False])
    poll = SimpleNamespace(register=lambda fd, events: None, poll=lambda milliseconds: next(looks))
    monkeypatch.setattr(output_pipes.select, "poll", lambda: poll)
    assert pipes.take_turn()
    assert not pipes.wait_for_turn()
    assert list(looks) == []


def test_a_call_that_closes_everything_takes_the_turn_from_nobody(pipes: OutputPipes) -> None:
    for fd in pipes._turn:
        os.close(fd)
    assert not pipes.wait_for_turn()
    pipes.give_turn()
    pipes._turn = (-1, -1)


# -- what is read ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [0, Flag.STDERR, Flag.LOG])
def test_what_is_written_becomes_output_of_the_call(flags: int, pipes: OutputPipes) -> None:
    reading, writing = ends(pipes)[flags]
    assert read(pipes, reading) == []
    os.write(writing, b"text")
    (frame,) = read(pipes, reading)
    assert (frame.kind, frame.flags, frame.call_id, frame.attempt, frame.detail) == (Kind.OUTPUT, flags, 5, 2, 77)
    assert frame.payload == b"text"
    assert reading in pipes.sources


def test_records_stay_apart_and_text_does_not(pipes: OutputPipes) -> None:
    for flags, expected in ((0, [b"onetwo"]), (Flag.LOG, [b"one", b"two"])):
        reading, writing = ends(pipes)[flags]
        os.write(writing, b"one")
        os.write(writing, b"two")
        assert [bytes(frame.payload) for frame in read(pipes, reading)] == expected


def test_without_logs_there_are_two_sources() -> None:
    pipes = OutputPipes(logs=False)
    assert list(pipes.sources.values()) == [0, Flag.STDERR]
    pipes.close()


@pytest.mark.parametrize(("flags", "most"), [(0, MOST_READS), (Flag.STDERR, MOST_READS), (Flag.LOG, MOST_RECORDS)])
def test_a_writer_that_is_as_fast_as_the_reader_holds_it_up_for_a_while_only(
    flags: int, most: int, pipes: OutputPipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, _ = ends(pipes)[flags]
    asked: list[tuple[int, int]] = []

    def read_always(fd: int, size: int) -> bytes:
        asked.append((fd, size))
        return b"x"

    monkeypatch.setattr(os, "read", read_always)
    assert len(read(pipes, reading)) == most
    monkeypatch.undo()
    assert asked == [(reading, MAX_INLINE)] * most


def test_a_pipe_that_nobody_writes_to_any_more_is_left_out(pipes: OutputPipes) -> None:
    reading, writing = ends(pipes)[0]
    os.write(writing, b"last")
    pipes.keep_reading_ends()
    assert not is_open(writing)
    assert pipes.descriptors() == [*pipes._reading, *pipes._turn]
    assert [bytes(frame.payload) for frame in read(pipes, reading)] == [b"last"]
    assert reading not in pipes.sources
    assert len(pipes.sources) == 2


def test_a_side_that_a_call_has_closed_is_left_out(pipes: OutputPipes) -> None:
    reading, _ = ends(pipes)[Flag.STDERR]
    os.close(reading)
    assert read(pipes, reading) == []
    assert list(pipes.sources.values()) == [0, Flag.LOG]
    pipes._reading.remove(reading)


def test_reading_never_blocks(pipes: OutputPipes) -> None:
    assert not any(os.get_blocking(fd) for fd in (*pipes._reading, *pipes._turn))
    assert all(os.get_blocking(fd) for fd in pipes._writing)


# -- descriptors -------------------------------------------------------------------------------------------------------


def test_all_descriptors_are_known_and_closed() -> None:
    pipes = OutputPipes(logs=True)
    fds = pipes.descriptors()
    assert len(set(fds)) == 8
    assert all(map(is_open, fds))
    pipes.close()
    assert not any(map(is_open, fds))
    assert pipes.sources == {}
    pipes.close()


@pytest.mark.parametrize("logs", [True, False])
def test_a_slots_streams_become_the_pipes(logs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pipes = OutputPipes(logs=logs)
    out, err, *log = pipes._writing
    moved: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "dup2", lambda old, new: moved.append((old, new)))
    assert pipes.move_in() == (log[0] if logs else None)
    monkeypatch.undo()
    assert moved == [(out, 1), (err, 2)]
    assert not is_open(out)
    assert not is_open(err)
    pipes._writing[:2] = []
    pipes.close()


def test_standard_descriptors_that_are_free_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([0, 2, 3, 4])
    closed: list[int] = []
    monkeypatch.setattr(os, "open", lambda path, how: next(free))
    monkeypatch.setattr(os, "close", closed.append)
    output_pipes.occupy_standard_descriptors()
    monkeypatch.undo()
    assert closed == [3]
    assert next(free) == 4


def test_dropped_output_goes_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[Any] = []
    monkeypatch.setattr(os, "open", lambda path, how: did.append((path, how)) or 9)
    monkeypatch.setattr(os, "dup2", lambda old, new: did.append((old, new)))
    monkeypatch.setattr(os, "close", did.append)
    output_pipes.drop()
    monkeypatch.undo()
    assert did == [(os.devnull, os.O_WRONLY), (9, 1), (9, 2), 9]


# -- a slot's own half -------------------------------------------------------------------------------------------------


class OwnHalf:
    """A slot's half of the output, in a process that keeps its own streams."""

    def __init__(self, pipes: OutputPipes, monkeypatch: pytest.MonkeyPatch, log_level: int | None) -> None:
        self.pipes = pipes
        self.flushed: list[int] = []
        self.sent: list[Frame] = []
        self.fails: type[Exception] | None = None
        self.levels: list[tuple[int, int]] = []
        self.ends = ends(pipes)
        decoder = Decoder()
        self.agent: Any = SimpleNamespace(
            send=lambda raw: self.sent.extend(decoder.feed(raw)), receive_into=self.receive_into
        )
        self.log: int | None = self.ends[Flag.LOG][1]
        monkeypatch.setattr(pipes, "move_in", lambda: self.log)
        monkeypatch.setattr(slot_output, "_by_lines", self.stream)
        monkeypatch.setattr(slot_output, "_c_streams_by_lines", lambda: None)
        monkeypatch.setattr(slot_output.slot_logging, "LogForwarder", self.forwarder)
        for name in ("stdout", "stderr", "__stdout__", "__stderr__"):
            monkeypatch.setattr(slot_output.sys, name, getattr(slot_output.sys, name))
        self.output = SlotStreams(pipes, self.agent, log_level)
        self.streams = slot_output.sys.stdout, slot_output.sys.stderr
        self.originals = slot_output.sys.__stdout__, slot_output.sys.__stderr__

    def stream(self, fd: int) -> Any:
        return SimpleNamespace(fd=fd, write=lambda text: None, flush=lambda: self.flush(fd))

    def flush(self, fd: int) -> None:
        self.flushed.append(fd)
        if self.fails is not None:
            raise self.fails

    def forwarder(self, log: int, level: int) -> Any:
        return SimpleNamespace(follow=lambda new: self.levels.append((log, new)))

    def receive_into(self, view: memoryview) -> None:
        self.received = len(view)

    def write(self, flags: int, data: bytes) -> None:
        os.write(self.ends[flags][1], data)

    def texts(self) -> list[tuple[int, int, int, bytes]]:
        found = [(frame.flags, frame.call_id, frame.attempt, bytes(frame.payload)) for frame in self.sent]
        self.sent.clear()
        return found


@pytest.fixture
def own(pipes: OutputPipes, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnHalf]:
    yield OwnHalf(pipes, monkeypatch, 20)
    monkeypatch.undo()


def test_text_is_sent_at_the_end_of_its_call(own: OwnHalf) -> None:
    own.write(0, b"out")
    own.write(Flag.STDERR, b"err")
    own.write(Flag.LOG, b"record")
    own.output.end_call(5, 2)
    assert own.flushed == [1, 2]
    assert {frame.detail for frame in own.sent} == {os.getpid()}
    assert own.texts() == [(0, 5, 2, b"out"), (Flag.STDERR, 5, 2, b"err"), (Flag.LOG, 5, 2, b"record")]
    assert own.pipes.take_turn(), "the agent may read again"


def test_a_call_that_wrote_nothing_waits_for_no_turn(own: OwnHalf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own.pipes, "wait_for_turn", lambda: pytest.fail("it waits"))
    own.output.end_call(5, 2)
    assert own.texts() == []


@pytest.mark.parametrize("error", [OSError, ValueError])
def test_a_stream_that_a_call_has_closed_keeps_no_other_text_back(error: type[Exception], own: OwnHalf) -> None:
    own.fails = error
    own.write(0, b"out")
    own.output.end_call(5, 2)
    assert own.flushed == [1, 2]
    assert own.texts() == [(0, 5, 2, b"out")]


def test_an_agent_that_never_gives_its_turn_keeps_no_text_back(own: OwnHalf, monkeypatch: pytest.MonkeyPatch) -> None:
    assert own.pipes.take_turn()
    monkeypatch.setattr(output_pipes, "TURN_TIMEOUT", 0.0)
    own.write(0, b"out")
    own.output.end_call(5, 2)
    assert own.texts() == [(0, 5, 2, b"out")]
    assert not own.pipes.take_turn(), "the turn is the agent's to give"


def test_a_pipe_that_has_ended_is_looked_at_once(own: OwnHalf) -> None:
    os.close(own.ends[0][1])
    own.pipes._writing.remove(own.ends[0][1])
    own.output.end_call(5, 2)
    assert 0 not in own.pipes.sources.values()
    assert own.output._poll.poll(0) == []
    own.output.end_call(6, 1)
    assert own.texts() == []


def test_streams_are_replaced_and_wait_for_the_agent(own: OwnHalf) -> None:
    assert [stream.fd for stream in own.streams] == [1, 2]
    assert own.originals == own.streams
    own.output.wait_for_agent()
    assert own.received == HEADER_SIZE


@pytest.mark.parametrize(("logs", "level"), [(True, 20), (True, None), (False, 20)])
def test_the_level_of_log_records_follows_the_call(
    logs: bool, level: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipes = OutputPipes(logs=True)
    own = OwnHalf(pipes, monkeypatch, level)
    if not logs:
        own.log = None
        own.output = SlotStreams(pipes, own.agent, level)
    own.output.begin_call(30)
    monkeypatch.undo()
    assert own.levels == ([(own.log, 30)] if logs and level is not None else [])
    with suppress(OSError):
        pipes.close()


def test_a_stream_writes_each_line_and_anything_that_is_no_text(tmp_path: Any) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    stream = slot_output._by_lines(fd)
    stream.write("ä \udc80\n")
    assert os.pread(fd, 100, 0) == "ä \\udc80\n".encode()
    stream.write("half")
    assert len(os.pread(fd, 100, 0)) == 10
    stream.close()
    assert is_open(fd), "the number stays the call's"
    os.close(fd)
