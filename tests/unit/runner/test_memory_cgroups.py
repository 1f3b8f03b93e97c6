"""Cgroups that limit the memory of calls. The memory controller is simulated: see `tests/support/cgroup_simulator.py`.

What needs no controller is tried on the kernel's own cgroups in `tests/processes/calls/test_cgroups.py`.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from dragonfly_executor.runner import memory_cgroups
from dragonfly_executor.runner.memory_cgroups import MemoryCgroups, set_up
from dragonfly_executor.runner.memory_limit import MemoryLimit
from dragonfly_executor.runner.oom_kills import oom_kills
from dragonfly_executor.runner.slot_cgroup import SlotCgroup
from tests.support.cgroup_simulator import SimulatedCgroups

MIB = 2**20
AGENT, SLOT, OTHER, WATCHDOG, STRANGER = os.getpid(), 71, 72, 11, 99
HOME = "/user.slice/run-1.scope"
LEAF = f"{HOME}/dragonfly-{AGENT}.agent"


@pytest.fixture(autouse=True)
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes of the simulator."""
    monkeypatch.setattr(memory_cgroups, "descendants", lambda pid: [SLOT, OTHER])
    monkeypatch.setattr(memory_cgroups, "_ancestors", lambda pid: [WATCHDOG, 1])

    def kill(pid: int, number: int) -> None:
        assert number == 0
        if pid not in (AGENT, SLOT, OTHER, WATCHDOG, STRANGER, 1):
            raise ProcessLookupError

    monkeypatch.setattr(os, "kill", kill)


def simulated(own: str = HOME, **more: Any) -> SimulatedCgroups:
    files = SimulatedCgroups(own, AGENT, **more)
    for pid in (SLOT, OTHER):
        files.start(pid, AGENT)
    return files


def made(files: SimulatedCgroups, starters: int = 0) -> MemoryCgroups | None:
    as_files: Any = files
    return set_up(as_files, starters)


def group_of(files: SimulatedCgroups, monkeypatch: pytest.MonkeyPatch, slot: int = SLOT) -> SlotCgroup:
    """The cgroup as the slot's process sees it."""
    as_files: Any = files
    files.pid = slot
    monkeypatch.setattr(os, "getpid", lambda: slot)
    monkeypatch.setattr(os, "getppid", lambda: AGENT)
    found = SlotCgroup.find(as_files)
    assert found is not None
    return found


def test_the_runner_moves_into_a_leaf_before_its_cgroup_passes_the_controller_on() -> None:
    files = simulated()
    assert made(files) is not None
    assert {files.where(pid) for pid in (AGENT, SLOT, OTHER)} == {LEAF}
    assert files.group(HOME).enabled == {"memory"}
    assert files.orders[-1] == (HOME, "cgroup.subtree_control", "+memory")


@pytest.mark.parametrize("controllers", ["", "cpu pids"])
def test_without_the_controller_nothing_is_changed(controllers: str) -> None:
    files = simulated(controllers=controllers)
    assert made(files) is None
    assert (files.orders, files.children(HOME)) == ([], [])


def test_a_cgroup_with_processes_of_others_stays_as_it_is() -> None:
    """The user's own program, say: it must not be moved."""
    files = simulated()
    files.start(STRANGER, AGENT)
    assert made(files) is None
    assert made(files, 9) is None
    assert (files.orders, files.children(HOME)) == ([], [])


def test_a_process_of_another_namespace_is_a_stranger() -> None:
    files = simulated()
    files.start(0, AGENT)
    assert made(files, 9) is None


@pytest.mark.parametrize("starters", [0, 1, 2, 9])
def test_what_started_the_runner_is_moved_only_if_it_exists_for_the_runner_alone(starters: int) -> None:
    """``docker exec`` follows the container's first process."""
    files = simulated()
    for pid in (WATCHDOG, 1):
        files.start(pid, AGENT)
    assert (made(files, starters) is not None) == (starters >= 2)
    assert files.where(1) == (LEAF if starters >= 2 else HOME)


def test_a_cgroup_that_is_not_delegated_stays_as_it_is() -> None:
    not_delegated, not_writable = simulated(is_delegated=False), simulated()
    not_writable.group(HOME).may_write = False
    for files in (not_delegated, not_writable):
        assert made(files) is None
        assert (files.orders, files.children(HOME)) == ([], [])


def test_in_the_root_the_processes_of_others_stay() -> None:
    """The kernel lets the root have processes beside its children."""
    files = simulated("/")
    files.start(STRANGER, AGENT)
    assert made(files) is not None
    assert (files.where(STRANGER), files.where(SLOT)) == ("/", f"/dragonfly-{AGENT}.agent")
    assert "memory" in files.root.enabled


def test_what_fails_on_the_way_is_undone() -> None:
    files = simulated()
    write = files.write

    def refuse(path: str, file: str, text: str) -> None:
        if text == "+memory":
            raise PermissionError(1, "not permitted")
        write(path, file, text)

    files.write = refuse  # type: ignore[method-assign]
    assert made(files) is None
    assert files.where(SLOT) == HOME
    assert files.children(HOME) == []


def test_a_process_that_is_forked_meanwhile_is_moved_too() -> None:
    files = simulated()
    write, born = files.write, 0

    def write_and_fork(path: str, file: str, text: str) -> None:
        nonlocal born
        if text == "+memory" and not born:
            born = OTHER + 1
            files.group(HOME).procs.append(born)
        write(path, file, text)

    files.write = write_and_fork  # type: ignore[method-assign]
    assert made(files) is not None
    assert files.where(born) == LEAF


# -- a call ------------------------------------------------------------------------------------------------------------


def test_a_slot_that_uses_more_than_it_may_is_killed_with_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    files = simulated()
    groups = made(files)
    assert groups is not None
    assert group_of(files, monkeypatch).limit(100 * MIB)
    child = SLOT + 100
    files.start(child, SLOT)
    files.charge(SLOT, 60 * MIB)
    files.charge(child, 30 * MIB)
    assert not groups.has_killed(SLOT)
    files.charge(child, 30 * MIB)
    assert sorted(files.killed) == [SLOT, child]
    assert groups.has_killed(SLOT)
    assert not groups.has_killed(OTHER)
    assert files.where(OTHER) == LEAF, "other slots go on"
    groups.slot_ended(SLOT)
    assert files.children(HOME) == [f"dragonfly-{AGENT}.agent"]


def test_the_limit_is_there_before_the_slot_is(monkeypatch: pytest.MonkeyPatch) -> None:
    files = simulated()
    made(files)
    files.orders.clear()
    group_of(files, monkeypatch).limit(100 * MIB)
    path = f"{HOME}/dragonfly-{AGENT}.slot-{SLOT}"
    assert files.orders == [
        (path, "memory.max", str(100 * MIB)),
        (path, "memory.oom.group", "1"),
        (path, "memory.swap.max", "0"),
        (path, "cgroup.procs", str(SLOT)),
    ]


def test_after_the_call_there_is_no_limit_and_what_was_kept_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    files = simulated()
    made(files)
    group = group_of(files, monkeypatch)
    for kept in range(3):
        group = group_of(files, monkeypatch)
        assert group.limit(100 * MIB)
        assert files.group(files.where(SLOT)).limit == (100 + 90 * kept) * MIB
        files.charge(SLOT, 90 * MIB)
        group.lift()
        assert files.group(files.where(SLOT)).limit is None
        assert files.group(files.where(SLOT)).swap == "max"
    files.charge(SLOT, 10_000 * MIB)
    assert files.killed == []


def test_pages_of_files_are_no_reason_to_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    files = simulated()
    made(files)
    group_of(files, monkeypatch).limit(100 * MIB)
    files.charge(SLOT, 500 * MIB, cache=True)
    files.charge(SLOT, 90 * MIB)
    assert files.killed == []
    group_of(files, monkeypatch).limit(100 * MIB)
    assert files.group(files.where(SLOT)).limit == 190 * MIB


def test_a_slot_whose_agent_has_made_no_cgroups_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    files: Any = simulated()
    assert SlotCgroup.find(files) is None
    made(files)
    monkeypatch.setattr(os, "getppid", lambda: OTHER)
    assert SlotCgroup.find(files) is None, "these are the cgroups of another agent"


def test_a_limit_that_is_refused_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    files = simulated()
    made(files)
    group = group_of(files, monkeypatch)
    files.group(HOME).may_write = False
    assert not group.limit(100 * MIB)
    assert files.where(SLOT) == LEAF


def test_a_call_has_the_limit_of_its_cgroup_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries that reserve address space are no reason to refuse it."""
    import resource

    files = simulated()
    made(files)
    group = group_of(files, monkeypatch)
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = MemoryLimit(100 * MIB, lambda: group)
    limit.begin()
    assert files.group(files.where(SLOT)).limit == 100 * MIB
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    limit.end()
    assert files.group(files.where(SLOT)).limit is None


# -- the end -----------------------------------------------------------------------------------------------------------


def test_an_agent_that_ends_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    files = simulated()
    groups = made(files)
    assert groups is not None
    group_of(files, monkeypatch).limit(100 * MIB)
    files.end(SLOT)
    files.end(OTHER)
    files.pid = AGENT
    groups.close()
    assert files.children(HOME) == []
    assert files.group(HOME).enabled == set()
    assert files.where(AGENT) == HOME


def test_a_cgroup_with_a_process_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    files = simulated()
    groups = made(files)
    assert groups is not None
    group_of(files, monkeypatch).limit(100 * MIB)
    groups.slot_ended(SLOT)
    groups.close()
    assert files.children(HOME) == [f"dragonfly-{AGENT}.slot-{SLOT}"]
    assert files.where(SLOT) == f"{HOME}/dragonfly-{AGENT}.slot-{SLOT}"


@pytest.mark.parametrize("inside", [True, False])
def test_the_next_agent_removes_what_one_that_was_killed_has_left(inside: bool) -> None:
    """The next agent may begin in the leaf of the killed one, as the child of a process that was moved there."""
    gone = 4_000_000
    stale = f"{HOME}/dragonfly-{gone}.agent"
    files = simulated(stale if inside else HOME)
    files.make(f"{HOME}/dragonfly-{gone}.slot-4000001")
    files.make(f"{HOME}/dragonfly-{STRANGER}.slot-4000001")
    files.make(f"{HOME}/dragonfly-notes")
    if not inside:
        files.make(stale)
    assert made(files) is not None
    kept = [f"dragonfly-{STRANGER}.slot-4000001", "dragonfly-notes", f"dragonfly-{AGENT}.agent"]
    assert sorted(files.children(HOME)) == sorted(kept)
    assert files.where(SLOT) == LEAF


@pytest.mark.parametrize(
    ("text", "count"), [("", 0), ("low 0\noom_kill 3\noom_group_kill 1\n", 3), ("oom_kill x\n", 0), ("oom_kill\n", 0)]
)
def test_the_counter_of_killed_processes(text: str, count: int) -> None:
    assert oom_kills(text) == count
