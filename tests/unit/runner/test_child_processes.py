"""An agent's children without a process: slots that only note what happens to them, and wait statuses made up here."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from dragonfly_executor.core.slot_records import DYING, SlotRecord
from dragonfly_executor.protocol.frames import SETUP_HEAD, Decoder, Flag, Kind, ScriptImport
from dragonfly_executor.protocol.parent import VARIABLE, Parent
from dragonfly_executor.runner import child_processes, process_tree, slot_process
from dragonfly_executor.runner.child_processes import MAX_SETUP_CRASHES, ChildProcesses
from dragonfly_executor.runner.private_descriptors import PrivateDescriptors
from dragonfly_executor.runner.slot_progress import IMPORTING_SCRIPT, INITIALIZING, STARTING

EXITED = 3 << 8
"""The wait status of a process that has ended with exit code 3."""
CODEC = b"codec"
FIRST = 101
"""The process id of the first slot."""


class FakeTimer:
    def __init__(self, seconds: float, callback: Callable[[], None]) -> None:
        self.seconds = seconds
        self.ring = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeSlot:
    """A slot whose process is a number. `told` has what happens to it and to its output, in order."""

    def __init__(
        self,
        agent: Agent,
        new: FakeNewSlot,
        pid: int,
        output: Any,
        gpus: Any,
    ) -> None:
        self.pid = pid
        self.progress, self.environment = new.progress, new.environment
        self.setup: bytes
        self.place: Any
        self.closes: set[int]
        self.__dict__.update(new.ran)
        self.output = output
        output.slot = self
        self.told = agent.told
        self.record = SlotRecord(self.pid, 0.0, 0, gpus)
        self.timer: FakeTimer | None = None
        self.link = SimpleNamespace(
            pause=lambda: self.note("pause"),
            resume=lambda: self.note("resume"),
            drain_until=lambda is_enough: self.note("drain"),
        )
        self.stack = SimpleNamespace(read=lambda number: "")
        agent.forked.append(self)

    def note(self, what: str) -> None:
        self.told.append((self.pid, what))

    def kill(self) -> None:
        self.note("kill")

    def close(self) -> None:
        self.note("close")

    def descriptors(self) -> list[int]:
        return [self.pid * 10, self.pid * 10 + 1]


class FakeNewSlot:
    """A slot before its fork. `ran` has what its process starts with."""

    def __init__(self, agent: Agent, progress: Any, *, output: Any, title: Any, environment: Any) -> None:
        if agent.no_descriptors:
            raise OSError(24, "no descriptor is left")
        agent.made.append(self)
        self.progress, self.environment, self.output = progress, environment, output
        self.ran: dict[str, Any] = {}
        self.number = len(agent.made)
        self.is_closed = False

    def descriptors(self) -> list[int]:
        return [10 * self.number, 10 * self.number + 1]

    def run(self, private: Any, *, setup: bytes, place: Any, template: Any, rendezvous: Any, agent_pid: int) -> None:
        assert template is None, "the setup of these tests cannot be opened"
        private.discard(self.descriptors())
        self.ran = {"setup": setup, "place": place, "closes": numbers(private)}
        assert agent_pid == os.getpid()

    def close(self) -> None:
        self.is_closed = True
        self.output.close()


def numbers(private: PrivateDescriptors) -> set[int]:
    """The descriptors in the table."""
    return {fd for fd, mark in enumerate(private._marks) if mark}


class FakeOutput:
    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.slot: FakeSlot
        self.closed = False

    def slot_is_ready(self, slot: FakeSlot) -> None:
        slot.note("output is ready")

    def slot_has_ended(self, slot: FakeSlot) -> None:
        slot.note("output has ended")

    def send(self, frame: bytes) -> None:
        self.slot.note("sent behind its output")
        self.agent.sent.append(frame)

    def close(self) -> None:
        self.closed = True


class Agent:
    """What is around the children: a loop, a link, a dispatcher, and a kernel."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.forked: list[FakeSlot] = []
        self.told: list[tuple[int, str]] = []
        self.sent: list[bytes] = []
        self.timers: list[FakeTimer] = []
        self.ended: list[tuple[int, int]] = []
        self.groups: list[int] = []
        self.spared: list[set[int]] = []
        self.told_as_lost: dict[int, bool] = {}
        self.slots: dict[int, FakeSlot] = {}
        self.memory_groups: Any = None
        self.forks_left: int | None = None
        self.no_descriptors = False
        self.made: list[FakeNewSlot] = []
        self.children = ChildProcesses(
            SimpleNamespace(call_later=self.call_later),  # type: ignore[arg-type]
            SimpleNamespace(send=self.sent.append),  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            lambda slot, frames: None,
            lambda slot, data, times: None,
            lambda: [7],
        )
        self.children.setup_timeout = 12.5
        self.setup(initializer=b"")
        monkeypatch.setattr(child_processes, "NewSlot", partial(FakeNewSlot, self))
        monkeypatch.setattr(child_processes, "fork_all", self.fork_all)
        monkeypatch.setattr(child_processes, "Slot", self.make_slot)
        monkeypatch.setattr(os, "waitpid", self.waitpid)
        monkeypatch.setattr(process_tree, "kill_group", self.kill_group)
        monkeypatch.setattr(process_tree, "kill_children", lambda but: self.spared.append(set(but)))

    def setup(self, initializer: bytes) -> None:
        head = SETUP_HEAD.pack(1000, len(CODEC), ScriptImport.IMPORT, Flag.LZ4)
        self.children.setup_parts = [head + CODEC[:2], CODEC[2:] + initializer]

    def call_later(self, seconds: float, callback: Callable[[], None]) -> FakeTimer:
        self.timers.append(FakeTimer(seconds, callback))
        return self.timers[-1]

    def fork_all(self, new: list[FakeNewSlot], run: Callable[[Any], Any]) -> tuple[list[int], OSError | None]:
        pids = []
        for slot in new:
            if self.forks_left == 0:
                return pids, BlockingIOError(11, "no process is left")
            if self.forks_left is not None:
                self.forks_left -= 1
            # A forked process has a copy.
            before = bytes(self.children._private._marks)
            run(slot)
            self.children._private._marks[:] = before
            pids.append(FIRST + len(self.forked) + len(pids))
        return pids, None

    def make_slot(
        self,
        loop: Any,
        new: Any,
        pid: int,
        *,
        output: Any,
        private: Any,
        on_frames: Any,
        on_results: Any,
        gpus: Any,
        buffers: Any,
    ) -> FakeSlot:
        slot = FakeSlot(self, new, pid, output, gpus)
        private.discard(new.descriptors())
        private.add(slot.descriptors())
        return slot

    def fork_several(self, *numbers: int, place: Any = None) -> tuple[list[FakeSlot], OSError | None]:
        slots, error = self.children.fork_slots(numbers, place, lambda: FakeOutput(self))  # type: ignore[arg-type, return-value]
        self.slots.update((slot.pid, slot) for slot in slots)  # type: ignore[misc]
        return slots, error  # type: ignore[return-value]

    def fork(self, number: int = 0) -> FakeSlot:
        (slot,), error = self.fork_several(number)
        assert error is None
        return slot

    # -- the kernel ----------------------------------------------------------------------------------------------------

    def waitpid(self, pid: int, options: int) -> tuple[int, int]:
        assert (pid, options) == (-1, os.WNOHANG)
        if self.ended:
            return self.ended.pop(0)
        if self.slots:
            return 0, 0
        raise ChildProcessError

    def kill_group(self, group: int) -> None:
        self.groups.append(group)
        self.told.append((group, "kill its group"))

    # -- the dispatcher ------------------------------------------------------------------------------------------------

    def slot_is_ready(self, slot: FakeSlot) -> None:
        slot.record.is_ready = True
        slot.note("dispatcher: ready")

    def slot_is_dying(self, slot: FakeSlot) -> None:
        slot.record.blocked |= DYING

    def slot_ended(self, slot: FakeSlot, status: int, *, tell: bool) -> None:
        slot.note(f"dispatcher: ended {status}")
        self.told_as_lost[slot.pid] = tell
        del self.slots[slot.pid]

    # -- what a test does and sees -------------------------------------------------------------------------------------

    def end(self, *pids: int, status: int = EXITED, stopping: bool = False) -> None:
        self.ended += [(pid, status) for pid in pids]
        self.children.reap(stopping=stopping)

    def crash(self, phase: int = STARTING, status: int = EXITED) -> FakeSlot:
        """Fork a slot that ends before it is ready."""
        slot = self.fork()
        slot.progress.phase = phase
        self.end(slot.pid, status=status)
        return slot

    def frames(self) -> list[tuple[int, int, bytes]]:
        """Return the frames that were sent since the last call: kind, detail, payload."""
        decoder = Decoder(1 << 20)
        found = [frame for sent in self.sent for frame in decoder.feed(sent)]
        self.sent.clear()
        return [(frame.kind, frame.detail, bytes(frame.payload)) for frame in found]

    def failures(self) -> list[str]:
        return [payload.decode() for kind, _, payload in self.frames() if kind == Kind.SETUP_FAILED]


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Agent:
    return Agent(monkeypatch)


def script_of(slot: FakeSlot) -> int:
    max_payload, size, script, codecs = SETUP_HEAD.unpack_from(slot.setup)
    assert (max_payload, size, codecs) == (1000, len(CODEC), Flag.LZ4)
    assert slot.setup[SETUP_HEAD.size :] == CODEC
    return int(script)


# -- a slot begins -----------------------------------------------------------------------------------------------------


def test_a_slot_is_forked_with_the_setup_and_the_parent_is_told(agent: Agent) -> None:
    cells: Any = object()
    agent.children.starts = cells
    place: Any = object()
    (slot,), error = agent.fork_several(3, place=place)
    assert error is None
    assert slot.setup == b"".join(agent.children.setup_parts)
    assert slot.place is place
    assert slot.output is agent.made[0].output
    assert slot.progress._starts is cells
    assert slot.progress.number == 3
    assert agent.frames() == [(Kind.SLOT_UP, slot.pid, b"")]
    assert [timer.seconds for timer in agent.timers] == [12.5]
    assert slot.timer is agent.timers[0]


def test_a_slot_sets_the_variables_of_its_number(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, Parent("media", 1, "local", 1, "host").encode())
    monkeypatch.setattr(agent.children, "machine", SimpleNamespace(cpus=2.0, seen_cpus=2, gpus={}))
    agent.children.configure({"slots": 2, "setup_timeout": 3.0, "limit_threads": True, "divide_gpus": True})
    assert agent.children.setup_timeout == 3.0
    variables = agent.fork(5).environment
    assert Parent.decode(variables[VARIABLE]).slot == 5
    assert agent.fork(0).environment == {**variables, VARIABLE: agent.forked[1].environment[VARIABLE]}


@pytest.mark.parametrize("forks_left", [0, 1, 2])
def test_a_fork_that_fails_leaves_nothing_and_those_before_it_stay(agent: Agent, forks_left: int) -> None:
    agent.fork()
    agent.forks_left = forks_left
    slots, error = agent.fork_several(1, 2, 3)
    assert str(error) == "[Errno 11] no process is left"
    assert [slot.progress.number for slot in slots] == [1, 2, 3][:forks_left]
    assert [new.is_closed for new in agent.made[1:]] == [place >= forks_left for place in range(3)]
    assert all(new.output.closed == new.is_closed for new in agent.made)
    assert len(agent.timers) == 1 + forks_left
    assert [kind for kind, _, _ in agent.frames()] == [Kind.SLOT_UP] * (1 + forks_left)
    kept = {fd for slot in agent.forked for fd in slot.descriptors()}
    assert numbers(agent.children._private) == kept


def test_without_descriptors_the_slots_that_have_some_are_forked(agent: Agent) -> None:
    outputs: list[FakeOutput] = []

    def make_output() -> FakeOutput:
        agent.no_descriptors = len(outputs) == 2
        outputs.append(FakeOutput(agent))
        return outputs[-1]

    slots, error = agent.children.fork_slots([4, 5, 6, 7], None, make_output)  # type: ignore[arg-type, return-value]
    assert str(error) == "[Errno 24] no descriptor is left"
    assert [slot.progress.number for slot in slots] == [4, 5]
    assert [output.closed for output in outputs] == [False, False, True]


def test_a_slot_closes_the_descriptors_of_the_agent_and_of_all_other_slots(agent: Agent) -> None:
    first, second = agent.fork(), agent.fork()
    older = {*first.descriptors(), *second.descriptors()}
    slots, _ = agent.fork_several(2, 3, 4)
    new = [set(each.descriptors()) for each in agent.made[2:]]
    for slot, own in zip(slots, new, strict=True):
        assert slot.closes == {7, *older, *set().union(*new)} - own


def test_a_slot_that_is_ready_is_told_of_once_its_output_is(agent: Agent) -> None:
    slot = agent.fork()
    agent.children.slot_is_ready(slot)  # type: ignore[arg-type]
    assert slot.record.is_ready
    assert agent.timers[0].cancelled
    assert agent.told == [(slot.pid, "output is ready"), (slot.pid, "dispatcher: ready")]


def test_a_slot_whose_setup_takes_too_long_is_killed_and_told_of(agent: Agent) -> None:
    slot = agent.fork()
    slot.progress.phase = INITIALIZING
    agent.timers[0].ring()
    assert agent.told == [(slot.pid, "kill")]
    assert not slot.record.is_dying
    assert agent.failures() == ["the initializer did not finish within 12.5 s"]


def test_a_timer_that_rings_late_harms_no_slot(agent: Agent) -> None:
    ready, gone = agent.fork(), agent.fork()
    agent.children.slot_is_ready(ready)  # type: ignore[arg-type]
    agent.end(gone.pid)
    agent.told.clear()
    agent.frames()
    for timer in agent.timers:
        timer.ring()
    assert agent.told == []
    assert agent.frames() == []


def test_a_script_that_is_imported_for_too_long_fails_only_the_calls_that_need_it(agent: Agent) -> None:
    slot = agent.fork()
    slot.progress.phase = IMPORTING_SCRIPT
    agent.timers[0].ring()
    assert agent.told == [(slot.pid, "kill")]
    assert slot.record.is_dying
    agent.end(slot.pid, status=signal.SIGKILL)
    assert agent.failures() == []
    assert agent.told_as_lost == {slot.pid: False}
    assert script_of(agent.fork()) == ScriptImport.LATE


# -- a slot ends -------------------------------------------------------------------------------------------------------


def test_what_a_slot_has_written_goes_before_the_news_of_its_end(agent: Agent) -> None:
    slot = agent.fork()
    agent.children.slot_is_ready(slot)  # type: ignore[arg-type]
    agent.told.clear()
    agent.frames()
    agent.end(slot.pid)
    assert [what for _, what in agent.told] == [
        "kill its group",
        "drain",
        "output has ended",
        f"dispatcher: ended {EXITED}",
        "close",
        "sent behind its output",
    ]
    assert agent.frames() == [(Kind.SLOT_DOWN, slot.pid, b"")]
    assert agent.told_as_lost == {slot.pid: False}


def test_all_that_have_ended_are_reaped_at_once(agent: Agent) -> None:
    slots = [agent.fork() for _ in range(3)]
    agent.end(slots[0].pid, 9999, slots[2].pid)
    assert list(agent.slots) == [slots[1].pid]
    assert agent.groups == [slots[0].pid, slots[2].pid]
    assert agent.spared == [{slots[1].pid}], "the process that no slot is, and that was left behind, is killed"


def test_an_agent_without_children_reaps_none(agent: Agent) -> None:
    agent.end()
    assert agent.spared == [set()]


def test_a_timer_goes_with_its_slot(agent: Agent) -> None:
    agent.crash()
    assert agent.timers[0].cancelled


# -- crashes before a slot is ready ------------------------------------------------------------------------------------


def test_without_an_initializer_a_crash_is_that_of_the_first_call(agent: Agent) -> None:
    lost = [agent.crash().pid for _ in range(MAX_SETUP_CRASHES + 1)]
    assert agent.told_as_lost == dict.fromkeys(lost, True)
    assert agent.failures() == []


def test_an_initializer_that_crashes_three_slots_in_a_row_is_the_reason(agent: Agent) -> None:
    agent.setup(initializer=b"initializer")
    for _ in range(MAX_SETUP_CRASHES - 1):
        agent.crash(INITIALIZING)
    assert agent.failures() == []
    last = agent.crash(INITIALIZING)
    assert agent.failures() == ["3 slots in a row died before they were ready; the last exited with status 3"]
    assert not agent.told_as_lost[last.pid]


def test_a_slot_that_comes_up_ends_the_row(agent: Agent) -> None:
    agent.setup(initializer=b"initializer")
    for _ in range(2):
        for _ in range(MAX_SETUP_CRASHES - 1):
            agent.crash(INITIALIZING)
        agent.children.slot_is_ready(agent.fork())  # type: ignore[arg-type]
    assert agent.failures() == []


def test_a_slot_that_is_told_to_go_has_not_crashed(agent: Agent) -> None:
    agent.setup(initializer=b"initializer")
    for _ in range(MAX_SETUP_CRASHES):
        agent.end(agent.fork().pid, stopping=True)
    for _ in range(MAX_SETUP_CRASHES):
        killed = agent.fork()
        killed.record.blocked |= DYING
        agent.end(killed.pid, status=signal.SIGKILL)
    assert agent.failures() == []
    assert not any(agent.told_as_lost.values())


def test_slots_after_a_crash_in_the_script_do_not_import_it(agent: Agent) -> None:
    assert script_of(agent.fork()) == ScriptImport.IMPORT
    slot = agent.crash(IMPORTING_SCRIPT)
    assert agent.told_as_lost[slot.pid] is False
    assert script_of(agent.fork()) == ScriptImport.SKIP
    agent.setup(initializer=b"initializer")
    for _ in range(MAX_SETUP_CRASHES):
        agent.crash(IMPORTING_SCRIPT)
    assert agent.failures() == []


# -- pauses ------------------------------------------------------------------------------------------------------------


def test_all_slots_that_are_paused_are_resumed_once(agent: Agent) -> None:
    first, second, third = agent.fork(), agent.fork(), agent.fork()
    for slot in (first, second):
        agent.children.pause(slot)  # type: ignore[arg-type]
    agent.end(second.pid)
    agent.told[:] = [(pid, what) for pid, what in agent.told if what in ("pause", "resume")]
    agent.children.resume()
    agent.children.resume()
    assert agent.told == [(first.pid, "pause"), (second.pid, "pause"), (first.pid, "resume")]
    assert third.pid in agent.slots


# -- helpers -----------------------------------------------------------------------------------------------------------


class Exited(BaseException):
    """The end of a process, in a test that is none."""


def test_the_end_of_a_helper_is_told_to_the_one_that_started_it(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    pids = iter((501, 502))
    monkeypatch.setattr(os, "fork", lambda: next(pids))
    ended: list[tuple[str, int]] = []
    for name in ("first", "second"):
        agent.children.run_helper(lambda: 0, lambda status, name=name: ended.append((name, status)))  # type: ignore[misc]
    slot = agent.fork()
    agent.end(501)
    assert ended == [("first", EXITED)]
    assert agent.spared == [{slot.pid, 502}]
    agent.end(501)
    assert ended == [("first", EXITED)], "the kernel may use the number again"
    agent.children.kill()
    agent.end(502)
    assert ended == [("first", EXITED)]


@pytest.mark.parametrize("fails", [False, True])
def test_a_helper_runs_its_job_without_the_agents_descriptors(
    fails: bool, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = agent.fork()
    did: list[object] = []

    def job() -> int:
        did.append("job")
        if fails:
            raise KeyboardInterrupt
        return 5

    def leave(status: int) -> None:
        raise Exited(status)

    monkeypatch.setattr(os, "fork", lambda: 0)
    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(os, "closerange", lambda start, end: did.extend(range(start, end)))
    monkeypatch.setattr(slot_process, "become_session_leader", lambda agent_pid: did.append(("alone", agent_pid)))
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: did.append(kind))
    with pytest.raises(Exited) as ended:
        agent.children.run_helper(job, lambda status: None)
    monkeypatch.undo()
    assert ended.value.args == ((1 if fails else 5),)
    expected = [("alone", os.getpid()), 7, *slot.descriptors(), "job"]
    assert did == expected + ([KeyboardInterrupt] if fails else [])


def test_at_the_end_all_are_killed(agent: Agent) -> None:
    slots = [agent.fork(), agent.fork()]
    agent.told.clear()
    agent.children.kill()
    assert agent.told == [(slot.pid, "kill") for slot in slots]
    assert agent.spared == [{slot.pid for slot in slots}]


# -- cgroups -----------------------------------------------------------------------------------------------------------


def test_the_cgroup_of_a_slot_goes_once_all_that_the_slot_has_left_is_killed(agent: Agent) -> None:
    slot, other = agent.fork(), agent.fork()
    told: list[object] = []
    agent.memory_groups = SimpleNamespace(
        slot_ended=lambda pid: told.append((pid, list(agent.spared))), close=lambda: told.append("close")
    )
    agent.ended = [(slot.pid, 0)]
    agent.children.reap(stopping=False)
    assert told == [(slot.pid, [{other.pid}])]
    agent.children.kill()
    assert told[1:] == ["close"]
