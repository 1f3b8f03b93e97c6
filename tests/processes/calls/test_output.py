"""What calls print comes back: shown, tagged, captured, dropped, or given to a function; each text to its call."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed, wait
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import psutil
import pytest

from dragonfly_executor import DragonflyExecutor, LocalBackend
from dragonfly_executor.backends.base import BootRequest, Node
from dragonfly_executor.engine.output.printer import OutputLine
from dragonfly_executor.engine.output.router import CAPTURED
from dragonfly_executor.errors import CallTimeoutError, RunnerLostError
from dragonfly_executor.protocol.frames import Decoder, Kind
from dragonfly_executor.sync import Sync
from tests.processes.calls import printers
from tests.processes.conftest import Make
from tests.support import payloads
from tests.support.helpers import PATIENCE, SOON, Gate, Mailbox, Stall, TamperingBackend, error_of, values, watching

MiB = 1024 * 1024


class Elsewhere(LocalBackend):
    """Runners that are told that they are on another machine. An agent imports nothing from its working directory."""

    sync = Sync("auto")

    def boot(self, request: BootRequest) -> Node:
        node = super().boot(request)
        node.shares_disk = False
        return node


class Heard:
    """What a pool's `output` function was given."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[OutputLine] = SimpleQueue()
        self.lines: list[OutputLine] = []

    def __call__(self, line: OutputLine) -> None:
        self._queue.put(line)

    def next(self, patience: float = PATIENCE) -> OutputLine:
        """The next line; fails if there is none in time."""
        try:
            line = self._queue.get(timeout=patience)
        except Empty:
            raise AssertionError(f"no line came; before it: {self.lines}") from None
        self.lines.append(line)
        return line

    def all(self) -> list[OutputLine]:
        """Everything; to be asked when the pool is gone."""
        while not self._queue.empty():
            self.lines.append(self._queue.get())
        return self.lines

    def by_call(self) -> dict[int, list[str]]:
        """The lines of each call, in order; to be asked when the pool is gone."""
        found: dict[int, list[str]] = defaultdict(list)
        for line in self.all():
            found[line.call_id].append(line.text)
        return found


def end(ex: DragonflyExecutor) -> None:
    """Until nothing of the pool is left, and everything has been told."""
    ex.shutdown()


def call_id(future: Any) -> int:
    return int(future.call.id)


# -- the modes ---------------------------------------------------------------------------------------------------------


def test_by_default_slots_write_where_the_parent_does(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    """Not even a pipe stands between."""
    ex = make(1)
    assert ex.submit(printers.stdout_is).result(SOON) == printers.stdout_is()
    ex.submit(printers.say_everywhere, "here").result(SOON)
    end(ex)
    out, err = capfd.readouterr()
    assert {"here print", "here write", "here child"} <= set(out.splitlines())
    assert {"here child error", "here stderr"} <= set(err.splitlines())


def test_from_elsewhere_the_text_is_written_as_it_is(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    """The default, where a slot cannot write to the parent's own descriptors."""
    ex = make(1, backend=Elsewhere())
    assert ex.submit(printers.stdout_is).result(SOON) != printers.stdout_is()
    ex.submit(printers.say, "no end of a line", "stderr").result(SOON)
    ex.submit(os.write, 1, "ünfinished".encode()).result(SOON)
    end(ex)
    assert capfd.readouterr() == ("ünfinished", "no end of a line\n")


def test_tagged_lines_say_which_runner_and_which_call(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    ex = make(1, output="tag")
    ex.submit(printers.say, "one\ntwo").result(SOON)
    ex.submit(printers.say, "three", "stderr").result(SOON)
    ex.submit(os.write, 1, b"unfinished").result(SOON)
    end(ex)
    out, err = capfd.readouterr()
    assert out == "[runner 1, call 1] one\n[runner 1, call 1] two\n[runner 1, call 3] unfinished\n"
    assert err == "[runner 1, call 2] three\n"


def test_a_captured_call_shows_nothing_and_keeps_what_it_wrote(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    """Children, C libraries and bare descriptors too."""
    ex = make(1, output="capture")
    future = ex.submit(printers.say_everywhere, "here")
    silent = ex.submit(payloads.nothing)
    values([future, silent])
    found = future.output().splitlines()
    assert sorted(found) == sorted(
        ["here print", "here write", "here child", "here child error", "here printf", "here stderr"]
    )
    # Of one stream the order is that of the writes.
    on_stdout = [line for line in found if line not in ("here child error", "here stderr")]
    assert on_stdout == ["here print", "here write", "here child", "here printf"]
    assert silent.output() == ""
    end(ex)
    assert capfd.readouterr() == ("", "")


def test_dropped_text_does_not_travel(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    """A megabyte is written, and no more bytes come over the link than without it."""
    counted: list[int] = []

    def count() -> Callable[[bytes], bytes]:
        return lambda data: counted.append(len(data)) or data  # type: ignore[func-returns-value]

    ex = make(1, output="drop", backend=TamperingBackend(to_parent=count))
    ex.submit(printers.write, b"x" * MiB).result(SOON)
    ex.submit(printers.say_everywhere, "here").result(SOON)
    end(ex)
    assert 0 < sum(counted) < 4096
    assert capfd.readouterr() == ("", "")


def test_a_function_gets_each_line_with_its_origin(make: Make) -> None:
    heard = Heard()
    ex = make(1, output=heard)
    futures = [ex.submit(printers.say, "out\nmore"), ex.submit(printers.say, "err", "stderr")]
    values(futures)
    end(ex)
    first, second = map(call_id, futures)
    assert heard.all() == [
        OutputLine(1, first, "stdout", "out"),
        OutputLine(1, first, "stdout", "more"),
        OutputLine(1, second, "stderr", "err"),
    ]


@pytest.mark.parametrize("option", ["inherit", "tag", "drop", print])
def test_only_a_pool_that_captures_has_the_text(make: Make, option: Any) -> None:
    future = make(1, output=option).submit(payloads.nothing)
    future.result(SOON)
    with pytest.raises(RuntimeError, match="only a pool made with output='capture'"):
        future.output()


# -- whose text it is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [LocalBackend, TamperingBackend], ids=["socket pair", "a link between"])
@pytest.mark.parametrize("slots", [1, 3])
def test_of_a_thousand_quick_calls_each_gets_its_own_line(make: Make, slots: int, backend: Any) -> None:
    """They are queued in the slots, which run them without a word from the agent."""
    ex = make(slots, output="capture", backend=backend())
    for _ in range(3):
        futures = [ex.submit(printers.say, f"line {number}") for number in range(1000)]
        assert [future.result(PATIENCE) for future in futures] == [f"line {number}" for number in range(1000)]
        assert [future.output() for future in futures] == [f"line {number}\n" for number in range(1000)]


def test_of_quick_calls_one_by_one_and_slow_ones_between_each_gets_its_own(make: Make) -> None:
    """The agent reads for the slow ones, the slots for themselves."""
    ex = make(2, output="capture")
    futures = []
    for number in range(300):
        futures.append(ex.submit(printers.sleep_and_say if number % 20 == 0 else printers.say, f"line {number}"))
        if number % 3 == 0:
            futures[-1].result(PATIENCE)
    values(futures)
    assert [future.output() for future in futures] == [f"line {number}\n" for number in range(300)]


def test_a_function_hears_each_line_of_each_call_in_order(make: Make) -> None:
    """Order within a call holds, whoever reads."""
    heard = Heard()
    ex = make(2, output=heard)
    futures = [ex.submit(printers.say, "\n".join(f"{n}.{line}" for line in range(20))) for n in range(400)]
    values(futures)
    end(ex)
    found = heard.by_call()
    assert {call_id(future) for future in futures} == set(found)
    for number, future in enumerate(futures):
        assert found[call_id(future)] == [f"{number}.{line}" for line in range(20)]


def test_two_calls_that_write_in_turn_are_told_apart(make: Make, mailbox: Mailbox, tmp_path: Path) -> None:
    heard = Heard()
    ex = make(2, output=heard)
    gates = [Gate(tmp_path / name) for name in ("a", "b")]
    futures = [ex.submit(printers.say_in_turn, mailbox.path, gate.path, gate.path[-1], 5) for gate in gates]
    for number in range(5):
        for gate, future in zip(gates, futures, strict=True):
            gate.open()
            assert mailbox.read() == f"{gate.path[-1]} {number}"
            # Live: both calls are still running.
            assert heard.next() == OutputLine(1, call_id(future), "stdout", f"{gate.path[-1]} {number}")
    values(futures)
    for gate in gates:
        gate.close()


def test_lines_of_threads_belong_to_their_call(make: Make) -> None:
    future = make(1, output="capture").submit(printers.from_threads, 20)
    future.result(SOON)
    assert sorted(future.output().split("\n")) == sorted(["", *(f"thread {number}" for number in range(20))])


def test_text_comes_while_the_call_runs_and_its_last_line_when_it_ends(
    make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    """A function gets whole lines: an unfinished one at the call's end."""
    heard = Heard()
    ex = make(1, output=heard)
    future = ex.submit(printers.say_and_hold, mailbox.path, gate.path, "first\nunfin", "error\n", "ished")
    mailbox.read()
    assert {heard.next()[2:4], heard.next()[2:4]} == {("stdout", "first"), ("stderr", "error")}
    assert not future.done()
    gate.open()
    assert future.result(SOON) == "through"
    assert heard.next()[2:4] == ("stdout", "unfinished")


def test_captured_text_can_be_looked_at_while_the_call_runs(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(1, output="capture")
    future = ex.submit(printers.say_in_turn, mailbox.path, gate.path, "line", 2)
    assert future.output() == ""
    gate.open()
    mailbox.read()
    # Another call's result comes after what was sent before it, over the same link.
    wait_for_text(future, "line 0\n")
    gate.open()
    future.result(SOON)
    assert future.output() == "line 0\nline 1\n"


def wait_for_text(future: Any, text: str) -> None:
    """Until the engine has taken it in: it is asked as often as it has taken something in."""
    engine = future._engine
    taken = threading.Event()
    arrived = engine.outputs.arrived

    def watch(*args: Any) -> None:
        arrived(*args)
        taken.set()

    engine.outputs.arrived = watch
    while future.output() != text:
        assert taken.wait(PATIENCE), future.output()
        taken.clear()


@pytest.mark.parametrize("mode", ["capture", "function"])
def test_a_character_that_comes_in_pieces_is_whole(make: Make, gate: Gate, mode: str) -> None:
    """The pieces are written apart, and some of them read apart."""
    heard = Heard()
    ex = make(1, output="capture" if mode == "capture" else heard)
    data = "zwölf € 𝄞\n".encode()
    future = ex.submit(printers.write_in_pieces, gate.path, [data[n : n + 1] for n in range(len(data))] + [b"\xe2"])
    gate.open(len(data) + 1)
    future.result(SOON)
    if mode == "capture":
        assert future.output() == "zwölf € 𝄞\n�"
    else:
        end(ex)
        assert [line.text for line in heard.all()] == ["zwölf € 𝄞", "�"]


def test_what_the_initializer_writes_belongs_to_the_runner(make: Make) -> None:
    """Though the first call waits in the slot already."""
    heard = Heard()
    ex = make(2, output=heard, initializer=printers.say, initargs=("ready\nunfinished", "stderr"))
    futures = [ex.submit(printers.say, f"line {number}") for number in range(20)]
    values(futures)
    end(ex)
    found = heard.by_call()
    assert set(found.pop(0)) == {"ready", "unfinished"}
    assert found == {call_id(future): [f"line {number}"] for number, future in enumerate(futures)}


def test_a_line_that_a_slot_never_finishes_comes_when_the_slot_ends(make: Make) -> None:
    """Not only when the runner does."""
    heard = Heard()
    ex = make(1, output=heard, initializer=os.write, initargs=(1, b"unfinished"), max_tasks_per_child=1)
    ex.submit(payloads.nothing).result(SOON)
    assert heard.next() == OutputLine(1, 0, "stdout", "unfinished")


def test_what_outlives_its_call_belongs_to_the_runner(make: Make, gate: Gate) -> None:
    """Checklist 38. It holds the pipe, and nobody waits for that."""
    heard = Heard()
    ex = make(1, output=heard)
    ex.submit(printers.leave_a_child, gate.path, "late").result(SOON)
    gate.open()
    assert heard.next() == OutputLine(1, 0, "stdout", "late")
    future = ex.submit(printers.say, "own")
    future.result(SOON)
    assert heard.next() == OutputLine(1, call_id(future), "stdout", "own")


def test_a_call_that_is_tried_again_has_the_text_of_its_last_attempt(make: Make, log: Path) -> None:
    future = make(1, output="capture", retries=1).submit(printers.die_once, str(log))
    assert future.result(PATIENCE) == "done"
    assert future.output() == "second attempt\n"


# -- ends --------------------------------------------------------------------------------------------------------------


def test_the_last_words_of_a_slot_that_dies_arrive(make: Make) -> None:
    """Checklist 5. They are in the call's text, and stderr's in the error."""
    ex = make(2, output="capture")
    future = ex.submit(printers.say_and_die, "last words")
    error = error_of(future, SOON)
    assert isinstance(error, RunnerLostError)
    assert error.output == "last words error\n"
    assert str(error).endswith("was killed by SIGKILL\nlast words error\n")
    assert sorted(future.output().splitlines()) == ["last words", "last words error"]
    assert ex.submit(printers.say, "later").result(SOON) == "later"


def test_a_slot_killed_from_outside_gives_what_it_wrote(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    """Checklist 5. Only the end of a long stderr is in the error; none of another call's."""
    ex = make(1, output="capture")
    ex.submit(printers.say, "of another call", "stderr").result(SOON)
    future = ex.submit(printers.say_and_hold, mailbox.path, gate.path, "out\n", "e" * 10000)
    os.kill(int(mailbox.read()), signal.SIGKILL)
    error = error_of(future, SOON)
    assert isinstance(error, RunnerLostError)
    assert error.output == "e" * 4096
    assert sorted(future.output()) == sorted("out\n" + "e" * 10000)


def test_a_segfault_brings_its_traceback(make: Make) -> None:
    """Checklist 5. faulthandler writes to descriptor 2."""
    ex = make(1, output="capture", initializer=printers.enable_faulthandler)
    error = error_of(ex.submit(printers.crash), SOON)
    assert isinstance(error, RunnerLostError)
    assert "Fatal Python error: Segmentation fault" in str(error)


def test_without_a_pipe_the_error_of_a_lost_slot_has_no_output(make: Make) -> None:
    error = error_of(make(1).submit(printers.say_and_die, "shown"), SOON)
    assert isinstance(error, RunnerLostError)
    assert error.output == ""


def test_a_call_that_is_stopped_at_its_limit_gives_what_it_wrote(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    """Checklist 40."""
    ex = make(1, output="capture", run_timeout=0.5)
    future = ex.submit(printers.say_and_hold, mailbox.path, gate.path, "before")
    assert isinstance(error_of(future), CallTimeoutError)
    assert future.output() == "before"


def test_a_call_that_is_cancelled_gives_what_it_wrote(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    """Checklist 40. Its last line, which has no end, comes when the slot is gone."""
    heard = Heard()
    ex = make(1, output=heard)
    future = ex.submit(printers.say_and_hold, mailbox.path, gate.path, "whole\nunfinished")
    mailbox.read()
    assert future.cancel()
    assert [heard.next().text, heard.next().text] == ["whole", "unfinished"]


def test_the_text_of_a_cancelled_call_is_captured(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    """Checklist 40. It is settled before its slot has said all."""
    ex = make(1, output="capture")
    future = ex.submit(printers.say_and_hold, mailbox.path, gate.path, "unfin", "", "ished")
    mailbox.read()
    assert future.cancel()
    end(ex)
    assert future.output() == "unfinished"


def test_pipes_go_with_their_slots(make: Make) -> None:
    """The agent holds as many descriptors after fifty slots as after one."""
    ex = make(1, output="capture", max_tasks_per_child=1)

    def agents() -> int:
        return int(ex.submit(payloads.agent_pid).result(PATIENCE))

    agent = agents()
    counts = [ex.submit(printers.descriptors_of, agent).result(PATIENCE) for _ in range(50)]
    assert max(counts[-10:]) <= max(counts[:5]) + 2


def test_a_child_that_holds_the_pipes_keeps_nobody(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    """Checklist 38. A slot that is replaced, and a pool that ends, wait for no end of a pipe."""
    ex = make(1, output="capture", max_tasks_per_child=1)
    left = ex.submit(printers.leave_a_silent_child, mailbox.path, gate.path)
    with watching(int(mailbox.read())) as (watch,):
        gate.open()
        assert left.result(SOON) is None
        assert ex.submit(printers.say, "next").result(SOON) == "next"
        end(ex)
        assert watch.ended(SOON)


def test_a_call_that_closes_the_standard_streams_harms_nobody(make: Make) -> None:
    """Checklist 63."""
    ex = make(1, output="capture")
    ex.submit(printers.close_standard_streams).result(SOON)
    assert values(ex.submit(payloads.echo, n) for n in range(100)) == list(range(100))


def test_a_call_that_closes_everything_fails_alone_and_with_its_text(make: Make) -> None:
    """Checklist 63."""
    ex = make(1, output="capture")
    future = ex.submit(printers.close_everything)
    error = error_of(future, SOON)
    assert isinstance(error, RunnerLostError)
    assert error.output == future.output() == "last words\n"
    future = ex.submit(printers.say, "later")
    assert future.result(SOON) == "later"
    assert future.output() == "later\n"


def test_a_call_that_replaces_its_stdout_has_it_so(make: Make, log: Path) -> None:
    """Checklist 63. Nobody reads the file in the pipe's place."""
    ex = make(1, output="capture")
    future = ex.submit(printers.replace_stdout, str(log))
    future.result(SOON)
    assert (future.output(), log.read_text()) == ("", "into the file\n")


# -- floods ------------------------------------------------------------------------------------------------------------


class Blocking:
    """An `output` function that does not come back until it is let go."""

    def __init__(self) -> None:
        self.called = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, line: OutputLine) -> None:
        self.called.set()
        self.go_on.wait(PATIENCE)


@pytest.fixture
def blocking() -> Iterator[Blocking]:
    blocking = Blocking()
    yield blocking
    blocking.go_on.set()


def resident(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def test_a_flood_that_nobody_reads_holds_up_its_own_call_and_nothing_else(
    make: Make, mailbox: Mailbox, blocking: Blocking
) -> None:
    """Checklist 47, 48. Memory is bounded in the agent and in the parent, and the call can be cancelled."""
    ex = make(2, output=blocking)
    agent = ex.submit(payloads.agent_pid).result(SOON)
    before = resident(agent), resident(os.getpid())
    flooding = ex.submit(printers.flood, mailbox.path)
    slot = int(mailbox.read())
    assert blocking.called.wait(SOON)
    assert values(ex.submit(payloads.echo, n) for n in range(2000)) == list(range(2000))
    # Those that print a little come through as well, though what they print waits behind the flood.
    assert ex.submit(printers.say, "a little").result(SOON) == "a little"
    assert not flooding.done()
    assert resident(agent) - before[0] < 12 * MiB
    assert resident(os.getpid()) - before[1] < 12 * MiB
    with watching(slot) as (watch,):
        assert flooding.cancel()
        assert watch.ended(SOON)
    assert values(ex.submit(payloads.echo, n) for n in range(100)) == list(range(100))
    blocking.go_on.set()


def test_a_flood_that_is_read_passes_beside_calls_that_cost_nothing(make: Make, mailbox: Mailbox) -> None:
    """Checklist 47. All of it is counted, and the end of it kept."""
    ex = make(2, output="capture")
    agent = ex.submit(payloads.agent_pid).result(SOON)
    before = resident(agent), resident(os.getpid())
    flooding = ex.submit(printers.flood, mailbox.path, 64 * MiB)
    mailbox.read()
    assert values(ex.submit(payloads.echo, n) for n in range(2000)) == list(range(2000))
    written = flooding.result(PATIENCE)
    first, _, rest = flooding.output().partition("\n")
    assert first == f"[{written - CAPTURED} characters were dropped]"
    assert len(rest) == CAPTURED
    assert rest.endswith("x\n")
    assert resident(agent) - before[0] < 12 * MiB
    assert resident(os.getpid()) - before[1] < 12 * MiB


def test_quick_calls_that_write_much_are_held_up_as_well(make: Make, blocking: Blocking) -> None:
    """Checklist 48. What they write a slot reads itself, up to 64 KiB for each; nothing is lost."""
    heard: list[str] = []

    def slow(line: OutputLine) -> None:
        blocking(line)
        heard.append(line.text)

    ex = make(1, output=slow)
    agent = ex.submit(payloads.agent_pid).result(SOON)
    before = resident(agent), resident(os.getpid())
    futures = [ex.submit(printers.say, "x" * 50_000) for _ in range(400)]
    assert blocking.called.wait(SOON)
    # Far fewer than all: the slot waits for the window. A call that is taken back may run after its neighbours.
    assert len([*islice(as_completed(futures, PATIENCE), 3)]) == 3
    # The agent looks every 3 ms why the slot does not answer. No look lets more text pass than the window does.
    assert len(wait(futures, 0.3).done) < 20
    assert resident(agent) - before[0] < 12 * MiB
    blocking.go_on.set()
    values(futures)
    end(ex)
    assert heard == ["x" * 50_000] * 400


class Watched:
    """A link to the parent that can be stalled, and then counts what passes before a call's result."""

    def __init__(self) -> None:
        self.stall = Stall()
        self.written = 0
        self.ahead: dict[int, int] = {}
        self._decoder = Decoder(one_by_one=True)

    def __call__(self, data: bytes) -> bytes:
        self.stall(data)
        frames = self._decoder.feed(data)
        while frames:
            (frame,) = frames
            if frame.kind == Kind.OUTPUT:
                self.written += len(frame.raw)
            elif frame.kind == Kind.RESULT:
                self.ahead[frame.call_id] = self.written
            frames = self._decoder.feed(b"") if self._decoder.pending else []
        return data


def test_a_result_passes_a_flood_on_a_slow_link(make: Make, mailbox: Mailbox) -> None:
    """Checklist 47. Of the megabytes that wait for the link, only those go first that were being written."""
    link = Watched()
    ex = make(13, output="capture", backend=TamperingBackend(to_parent=lambda: link))
    ex.submit(payloads.nothing).result(SOON)
    link.stall.after(0)
    floods = [ex.submit(printers.flood, mailbox.path, None, 256 * 1024) for _ in range(12)]
    # Each says that it begins, and that it has written so much.
    assert sum(mailbox.read().startswith("written") for _ in range(2 * len(floods))) == len(floods)
    quick = ex.submit(printers.tell_when_answered, mailbox.path)
    assert mailbox.read() == "answered"
    assert link.stall.stalled.is_set()
    link.written = 0
    link.stall.go_on.set()
    quick.result(SOON)
    assert link.ahead[call_id(quick)] < 2 * MiB
    assert all(flood.cancel() for flood in floods)


def test_all_that_a_slot_wrote_comes_before_the_news_of_its_death(make: Make, mailbox: Mailbox) -> None:
    """Checklist 5, 48. More than may be on its way: the rest is in its pipe when it dies."""
    link = Watched()
    ex = make(1, output="capture", backend=TamperingBackend(to_parent=lambda: link))
    ex.submit(payloads.nothing).result(SOON)
    link.stall.after(0)
    future = ex.submit(printers.write_and_hold, mailbox.path, 300 * 1024)
    with watching(int(mailbox.read())) as (watch,):
        os.kill(watch.pid, signal.SIGKILL)
        assert watch.ended(SOON)
    link.stall.go_on.set()
    assert isinstance(error_of(future, SOON), RunnerLostError)
    assert future.output() == "x" * 300 * 1024 + "the end\n"


def test_single_bytes_count_for_more_than_they_are(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    """Checklist 48. The window is one of memory."""
    ex = make(1, output="capture")
    future = ex.submit(printers.write_in_pieces, gate.path, [b"x"] * 3000)
    gate.open(3000)
    future.result(PATIENCE)
    assert future.output() == "x" * 3000
    assert len(future.captured._pieces) == 1


# -- functions that fail -----------------------------------------------------------------------------------------------


def test_a_function_that_raises_is_complained_about_and_asked_again(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Checklist 25. Not even sys.exit() ends anything."""
    heard: list[str] = []

    def fail(line: OutputLine) -> None:
        heard.append(line.text)
        if line.text == "exit":
            sys.exit(3)
        raise ValueError(line.text)

    ex = make(1, output=fail)
    with caplog.at_level(logging.ERROR, "dragonfly_executor"):
        for text in (b"one\ntwo\n", b"exit\n", b"three\n"):
            ex.submit(printers.write, text).result(SOON)
        end(ex)
    assert heard == ["one", "two", "exit", "three"]
    # One complaint for each piece, not for each line.
    raised = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert [repr(error) for error in raised] == ["ValueError('one')", "SystemExit(3)", "ValueError('three')"]


def test_a_function_that_blocks_holds_up_no_result(make: Make, blocking: Blocking) -> None:
    """Checklist 27."""
    ex = make(1, output=blocking)
    assert values(ex.submit(printers.say, f"line {number}") for number in range(200))
    assert blocking.called.is_set()


def test_a_stream_that_cannot_show_a_character_shows_its_number(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with open(tmp_path / "ascii", "w", encoding="ascii") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        ex = make(1, output="tag")
        ex.submit(printers.say, "€").result(SOON)
        end(ex)
    assert (tmp_path / "ascii").read_text() == "[runner 1, call 1] \\u20ac\n"


def test_without_a_stream_nothing_is_shown_and_nothing_fails(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a program without a console."""
    monkeypatch.setattr(sys, "stdout", None)
    ex = make(1, output="tag")
    ex.submit(printers.say, "nobody").result(SOON)
    end(ex)
    assert caplog.records == []


# -- records of logging ------------------------------------------------------------------------------------------------


def test_log_records_pass_through_the_parents_logging(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """With everything that a formatter may want, and who made them."""
    with caplog.at_level(logging.INFO):
        ex = make(1, output="tag")
        future = ex.submit(printers.log, "info", "%s of %d", "one", 2)
        future.result(SOON)
        end(ex)
    (record,) = [record for record in caplog.records if record.name == "tests.printers"]
    assert (record.levelno, record.getMessage(), record.funcName) == (logging.INFO, "one of 2", "log")
    assert (record.dragonfly_runner, record.dragonfly_call) == (1, call_id(future))  # type: ignore[attr-defined]
    assert record.process != os.getpid()


def test_the_parents_configuration_decides_what_becomes_of_a_record(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), caplog.at_level(logging.ERROR, "tests.printers"):
        ex = make(1, output="tag")
        values(ex.submit(printers.log, level, level) for level in ("info", "warning", "error"))
        end(ex)
    assert [record.getMessage() for record in caplog.records if record.name == "tests.printers"] == ["error"]


@pytest.mark.parametrize("options", [{}, {"max_tasks_per_child": 1}], ids=["slots that stay", "a slot for each call"])
def test_the_level_of_records_follows_the_parents(
    make: Make, caplog: pytest.LogCaptureFixture, options: dict[str, Any]
) -> None:
    """From call to call, in slots that run already, in those that are yet to come, and in those without logging."""
    heard = Heard()
    ex = make(2, output=heard, **options)

    def logged(level: int) -> None:
        with caplog.at_level(level):
            futures = [ex.submit(printers.log, word, f"{word} at {level}") for word in ("debug", "info", "error")]
            values(futures)

    caplog.set_level(logging.ERROR)
    values([ex.submit(payloads.echo, 1)])
    for level in (logging.INFO, logging.ERROR, logging.DEBUG, logging.CRITICAL, logging.INFO):
        logged(level)
    end(ex)
    expected = ["info at 20", "error at 20", "error at 40", "debug at 10", "info at 10", "error at 10"]
    assert sorted(line.text for line in heard.all()) == sorted([*expected, "info at 20", "error at 20"])


def test_records_that_the_parent_has_disabled_are_not_sent(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    heard = Heard()
    with caplog.at_level(logging.DEBUG):
        ex = make(1, output=heard)
        values([ex.submit(printers.log, "info", "before")])
        logging.disable(logging.INFO)
        try:
            values([ex.submit(printers.log, "info", "during"), ex.submit(printers.log, "warning", "louder")])
        finally:
            logging.disable(logging.NOTSET)
        values([ex.submit(printers.log, "info", "after")])
        end(ex)
    assert [line.text for line in heard.all()] == ["before", "louder", "after"]


def test_a_level_that_a_call_has_set_stays_until_the_parents_changes(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard()
    with caplog.at_level(logging.ERROR):
        ex = make(1, output=heard)
        values([ex.submit(printers.set_level, logging.INFO)])
        values([ex.submit(printers.log, "info", "the call's own level")])
        logging.root.setLevel(logging.WARNING)
        values([ex.submit(printers.log, "info", "no more")])
        end(ex)
    assert [line.text for line in heard.all()] == ["the call's own level"]


def test_a_function_gets_records_too(make: Make) -> None:
    heard = Heard()
    ex = make(1, output=heard)
    future = ex.submit(printers.log_an_error)
    future.result(SOON)
    end(ex)
    (line,) = heard.all()
    assert (line.call_id, line.stream) == (call_id(future), "log")
    assert line.text.startswith("it failed\nTraceback")
    assert line.text.endswith("ValueError: what went wrong")
    assert line.record is not None
    assert line.record.levelname == "ERROR"


def test_records_of_a_forked_child_stay_whole_and_harm_nothing(make: Make) -> None:
    heard = Heard()
    ex = make(1, output=heard)
    values(ex.submit(printers.log_and_fork) for _ in range(20))
    end(ex)
    assert [line.text for line in heard.all()] == ["parent", "child"] * 20


def test_the_records_of_a_call_come_in_their_order(make: Make) -> None:
    """Though both the agent and the slot read them: calls that end when the agent has just begun to look."""
    heard = Heard()
    ex = make(2, output=heard)
    values(ex.submit(printers.log_numbers, 10, 0.005) for _ in range(150))
    end(ex)
    assert set(map(tuple, heard.by_call().values())) == {tuple(map(str, range(10)))}


def test_a_record_that_is_too_long_is_cut(make: Make) -> None:
    heard = Heard()
    ex = make(1, output=heard)
    ex.submit(printers.log_much, 500_000).result(SOON)
    end(ex)
    (line,) = heard.all()
    assert re.fullmatch("é{4000,}", line.text)


@pytest.mark.parametrize("output", ["inherit", "tag", "capture"])
def test_a_slot_does_not_import_logging_for_it(make: Make, output: str) -> None:
    """Only where the user's code does, there is a handler."""
    # Run by an interpreter that loads nothing of its own accord, as coverage does.
    ex = make(1, output=output)
    had_it = ex.submit(printers.has_module, "logging").result(SOON)
    handlers = ex.submit(printers.log, "debug", "nothing").result(SOON)
    if "COVERAGE_PROCESS_START" not in os.environ and "COVERAGE_PROCESS_CONFIG" not in os.environ:
        assert not had_it
    assert handlers == (1 if output == "tag" else 0)


def test_captured_records_are_in_the_text_where_the_slot_writes_them(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is shown, and nothing passes through the parent's logging."""
    ex = make(1, output="capture")
    future = ex.submit(printers.log, "warning", "careful")
    future.result(SOON)
    assert future.output() == "careful\n"
    assert caplog.records == []


@pytest.mark.parametrize(
    ("configures", "expected"),
    [(None, "careful\n"), (printers.configure_logging, "INFO: by the way\nWARNING: careful\n")],
    ids=["nothing", "the initializer"],
)
def test_captured_records_are_what_the_slots_own_configuration_makes_of_them(
    make: Make, caplog: pytest.LogCaptureFixture, configures: Callable[[], None] | None, expected: str
) -> None:
    """Not the parent's, whatever that is; as in the processes that ProcessPoolExecutor spawns."""
    with caplog.at_level(logging.DEBUG):
        future = make(1, output="capture", initializer=configures).submit(printers.log_two)
        future.result(SOON)
    assert future.output() == expected


def test_the_idle_checks_text_belongs_to_the_runner(make: Make) -> None:
    heard = Heard()
    ex = make(1, output=heard, idle_shutdown_after=(0.05, printers.say_and_agree))
    ex.submit(payloads.nothing).result(SOON)
    assert heard.next() == OutputLine(1, 0, "stdout", "may go")
