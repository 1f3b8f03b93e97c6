"""What is told of a slot that died: where in the user's code, and that memory ran out. And what outlives a slot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dragonfly_executor.backends.base import Node
from dragonfly_executor.core.slot_records import SlotCall
from dragonfly_executor.engine.runner_messages import read_end, slot_lost
from dragonfly_executor.errors import InitializerError, RunnerLostError
from dragonfly_executor.protocol.frames import CALL_OPTIONS, Decoder, Flag, Frame, Kind, encode
from dragonfly_executor.runner import slot_crash
from dragonfly_executor.runner.cgroups import Cgroups
from dragonfly_executor.runner.oom_kills import MemoryWatch
from tests.processes.conftest import Make
from tests.support import payloads
from tests.support.helpers import PATIENCE, Mailbox, error_of, killing

# -- faults ------------------------------------------------------------------------------------------------------------


def crash_inside(how: str) -> None:
    if how == "segfault":
        import ctypes

        ctypes.string_at(0)
    os.abort()


def crash_in_a_fork() -> str:
    pid = os.fork()
    if pid == 0:
        os.abort()
    os.waitpid(pid, 0)
    return "unharmed"


@pytest.mark.parametrize("how", ["segfault", "abort"])
def test_the_error_of_a_fault_has_the_calls_stack(how: str, make: Make) -> None:
    """It ends where the user's code does."""
    error = error_of(make(1).submit(crash_inside, how))
    assert isinstance(error, RunnerLostError)
    assert error.stack.startswith("Fatal Python error")
    assert "in crash_inside" in error.stack
    assert "dragonfly_executor" not in error.stack
    assert error.stack in str(error)


def test_the_error_of_an_initializer_that_crashes_has_its_stack(make: Make) -> None:
    error = error_of(make(1, initializer=crash_inside, initargs=("segfault",)).submit(payloads.pid))
    assert isinstance(error, InitializerError)
    assert "killed by SIGSEGV" in str(error)
    assert "in crash_inside" in str(error)


def test_a_slot_that_is_killed_has_no_stack_even_after_a_fault_in_a_child_of_it(make: Make) -> None:
    ex = make(1)
    assert ex.submit(crash_in_a_fork).result(PATIENCE) == "unharmed"
    error = error_of(ex.submit(payloads.die_by, signal.SIGKILL))
    assert isinstance(error, RunnerLostError)
    assert error.stack == ""
    assert not error.out_of_memory


# -- memory ------------------------------------------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys
with open(sys.argv[1] + "/cgroup.procs", "w") as procs:
    procs.write(str(os.getpid()))
from dragonfly_executor import DragonflyExecutor

def eat():
    hoard = []
    while True:
        hoard.append(bytearray(b"x" * (1 << 22)))

if __name__ == "__main__":
    with DragonflyExecutor(1) as ex:
        for error in (ex.submit(eat).exception(), ex.submit(lambda: os.kill(os.getpid(), 9)).exception()):
            print(error.out_of_memory, error.signal, str(error), flush=True)
"""
LIMIT = 300 << 20


def make_cgroup() -> Path:
    """A cgroup with a limit, below the one that this process is in; skips the test where it cannot be had."""
    groups = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    if "memory" in groups:
        group = Path("/sys/fs/cgroup/memory" + groups["memory"]) / f"dragonfly-{os.getpid()}"
        file = "memory.limit_in_bytes"
    else:
        group, file = Path("/sys/fs/cgroup" + groups.get("", "/none")) / f"dragonfly-{os.getpid()}", "memory.max"
    try:
        group.mkdir()
        (group / file).write_text(str(LIMIT))
    except OSError as error:
        if group.exists():
            group.rmdir()
        pytest.skip(f"a cgroup with a limit cannot be made here: {error}")
    return group


@pytest.mark.slow
def test_a_slot_that_the_oom_killer_takes_says_so_with_the_limit(tmp_path: Path) -> None:
    """And the next one, which is killed by somebody else, does not."""
    group = make_cgroup()
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    try:
        done = subprocess.run(
            [sys.executable, "program.py", str(group)], cwd=tmp_path, env=environment, capture_output=True, text=True,
            timeout=PATIENCE * 2,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    finally:
        group.rmdir()
    hungry, killed = done.stdout.splitlines()
    assert hungry.startswith("True 9 ")
    assert f"{LIMIT} bytes (300 MiB)" in hungry
    assert killed.startswith("False 9 ")


LAYOUTS: dict[str, tuple[str, dict[str, str]]] = {
    "version 2": (
        "0::/a/b\n",
        {"a/b/memory.events": "low 0\noom_kill 3\n", "a/b/memory.max": "max\n", "a/memory.max": "4096\n"},
    ),
    "version 2 in a container": ("0::/of/the/host\n", {"memory.events": "oom_kill 3\n", "memory.max": "4096\n"}),
    "version 1": (
        "4:cpu,memory:/a\n0::/\n",
        {"memory/a/memory.oom_control": "under_oom 0\noom_kill 3\n", "memory/a/memory.limit_in_bytes": "4096\n",
         "memory/memory.limit_in_bytes": "9223372036854771712\n"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cgroups_are_read_wherever_they_lie(layout: str, tmp_path: Path) -> None:
    own, files = LAYOUTS[layout]
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    watch = MemoryWatch(Cgroups(str(tmp_path), str(tmp_path / "own")))
    assert watch.limit() == 4096
    assert not watch.has_killed()
    counter = tmp_path / "sys/fs/cgroup" / next(iter(files))
    counter.write_text(counter.read_text().replace("oom_kill 3", "oom_kill 5"))
    assert [watch.has_killed() for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("own", ["", "nonsense:x:y\n", "0::/gone\n", None])
def test_without_cgroups_nothing_is_known(own: str | None, tmp_path: Path) -> None:
    if own is not None:
        (tmp_path / "own").write_text(own)
    watch = MemoryWatch(Cgroups(str(tmp_path), str(tmp_path / "own")))
    assert not watch.has_killed()
    assert watch.limit() is None


@pytest.mark.parametrize(
    ("killed", "number"), [(True, signal.SIGKILL), (False, signal.SIGKILL), (True, signal.SIGTERM)]
)
def test_a_call_that_used_more_memory_than_it_requires_is_told_so(killed: bool, number: int, tmp_path: Path) -> None:
    """The kernel counts this kill in the runner's cgroup too. A later one there is another."""
    own, files = LAYOUTS["version 2 in a container"]
    (tmp_path / "own").write_text(own)
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / "sys/fs/cgroup" / name).write_text(text)
    watch = MemoryWatch(Cgroups(str(tmp_path), str(tmp_path / "own")))
    options = CALL_OPTIONS.pack(float("inf"), float("inf"), 0, 300 * 2**20, 0)
    call = SlotCall(1, 1, encode(Kind.CALL, 1, options, attempt=1, flags=Flag.OPTIONS))
    slot: Any = SimpleNamespace(
        pid=71,
        record=SimpleNamespace(is_ready=True),
        progress=SimpleNamespace(may_have_begun=lambda cell: True),
        output=SimpleNamespace(last_output=lambda: ""),
        stack=SimpleNamespace(read=lambda number: ""),
    )
    groups: Any = SimpleNamespace(has_killed=lambda pid: killed and pid == slot.pid)
    if killed:
        (tmp_path / "sys/fs/cgroup/memory.events").write_text("oom_kill 4\n")
    payload = slot_crash.describe(call, slot, number, watch, groups, None)
    error = slot_lost(3, read_end(_lost(payload)), Node())
    is_told = killed and number == signal.SIGKILL
    assert error.out_of_memory == is_told
    assert ("used more than the 314572800 bytes (300 MiB) of memory that it requires" in str(error)) == is_told
    if is_told:
        assert not watch.has_killed()
    with_no_groups = read_end(_lost(slot_crash.describe(call, slot, number, None, None, None)))
    assert not with_no_groups["out_of_memory"]


def _lost(payload: bytes) -> Frame:
    (frame,) = Decoder().feed(encode(Kind.LOST, 1, payload, attempt=1))
    return frame


# -- detached processes ------------------------------------------------------------------------------------------------


def start_detached(mark: str | None = "1", mailbox: str | None = None) -> int:
    """Start a process in a session of its own that is meant to stay; its number."""
    marks = {} if mark is None else {"DRAGONFLY_DETACH": mark}
    command = [sys.executable, "-c", "import signal; print('there', flush=True); signal.pause()"]
    process = subprocess.Popen(
        command, env={**os.environ, **marks}, start_new_session=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    assert process.stdout is not None
    process.stdout.readline()
    if mailbox is not None:
        payloads.tell(mailbox, process.pid)
        payloads.nap(60)
    return process.pid


@pytest.mark.parametrize("ends", ["shutdown", "slot", "cancel"])
def test_a_process_that_is_marked_as_detached_outlives_its_slot(ends: str, make: Make, mailbox: Mailbox) -> None:
    ex: Any = make(1)
    if ends == "cancel":
        future = ex.submit(start_detached, "1", mailbox.path)
        pid = int(mailbox.read())
    else:
        pid = ex.submit(start_detached).result(PATIENCE)
    with killing(pid) as (watch,):
        if ends == "cancel":
            assert future.cancel()
        if ends == "slot":
            error_of(ex.submit(payloads.leave, 1))
            ex.submit(payloads.echo, 1).result(PATIENCE)
        ex.shutdown()
        assert not watch.ended(0.2)
        os.kill(pid, signal.SIGKILL)
        assert watch.ended()


@pytest.mark.parametrize("mark", [None, "0"])
def test_a_process_that_is_not_goes_with_its_runner(mark: str | None, make: Make) -> None:
    """However it was started: nobody is left behind by accident."""
    ex = make(1)
    pid = ex.submit(start_detached, mark).result(PATIENCE)
    with killing(pid) as (watch,):
        ex.shutdown()
        assert watch.ended()


def test_a_mark_that_the_parent_has_itself_means_nothing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """All processes of its runners would have it."""
    monkeypatch.setenv("DRAGONFLY_DETACH", "1")
    ex = make(1)
    pid = ex.submit(start_detached).result(PATIENCE)
    with killing(pid) as (watch,):
        ex.shutdown()
        assert watch.ended()
