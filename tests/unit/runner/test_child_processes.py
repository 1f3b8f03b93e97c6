"""An agent's children without a process: slots that only note what happens to them, and wait statuses made up here."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from dragonfly_executor.core.slot_records import DYING, SlotRecord
from dragonfly_executor.protocol.frames import SETUP_HEAD, Decoder, Flag, Kind, ScriptImport
from dragonfly_executor.protocol.parent import VARIABLE, Parent
from dragonfly_executor.runner import child_processes, process_tree, slot_process
from dragonfly_executor.runner.child_processes import MAX_SETUP_CRASHES, ChildProcesses
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
        *,
        setup: bytes,
        place: Any,
        inherited: Any,
        output: Any,
        progress: Any,
        gpus: Any,
        rendezvous: Any,
        buffers: Any,
    ) -> None:
        self.pid = FIRST + len(agent.forked)
        self.setup, self.place, self.inherited, self.progress = setup, place, inherited, progress
        self.environment: dict[str, str] = {}
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
        self.full = False
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

    def make_slot(
        self,
        loop: Any,
        progress: Any,
        *,
        output: Any,
        on_frames: Any,
        on_results: Any,
        title: Any,
        environment: Any,
        **parts: Any,
    ) -> FakeSlot:
        if self.full:
            raise BlockingIOError(11, "no process is left")
        slot = FakeSlot(self, **parts, output=output, progress=progress)
        slot.environment = environment
        return slot

    def fork(self, number: int = 0) -> FakeSlot:
        slot = self.children.fork_slot(number, None, FakeOutput(self))  # type: ignore[arg-type]
        self.slots[slot.pid] = slot  # type: ignore[assignment]
        return slot  # type: ignore[return-value]

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
    output: Any = FakeOutput(agent)
    slot: Any = agent.children.fork_slot(3, place, output)
    assert slot.setup == b"".join(agent.children.setup_parts)
    assert slot.place is place
    assert slot.output is output
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


def test_a_fork_that_fails_leaves_nothing(agent: Agent) -> None:
    agent.fork()
    agent.full = True
    output: Any = FakeOutput(agent)
    with pytest.raises(OSError, match="no process is left"):
        agent.children.fork_slot(1, None, output)
    assert output.closed
    assert len(agent.timers) == 1
    assert [kind for kind, _, _ in agent.frames()] == [Kind.SLOT_UP]


def test_a_slot_closes_the_descriptors_of_the_agent_and_of_all_other_slots(agent: Agent) -> None:
    first, second = agent.fork(), agent.fork()
    assert agent.fork().inherited() == [7, *first.descriptors(), *second.descriptors(), 1030, 1031]
    agent.end(first.pid)
    assert second.inherited() == [7, *second.descriptors(), 1030, 1031]


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
    monkeypatch.setattr(os, "close", did.append)
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
