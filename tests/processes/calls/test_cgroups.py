"""Cgroups on this machine's kernel, as far as it has them. The memory controller is often not there.

What needs the controller is tested on a simulator: see `tests/unit/runner/test_memory_cgroups.py`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import pytest

from dragonfly_executor import LocalBackend, RunnerLostError
from dragonfly_executor.runner import memory_cgroups
from dragonfly_executor.runner.cgroup_files import CgroupFiles
from tests.processes.conftest import Make
from tests.support import first_version, payloads
from tests.support.first_version import FirstVersion
from tests.support.helpers import PATIENCE, Gate, Mailbox, error_of

MIB = 2**20

MOUNTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
PROGRAM = """
import os, sys
from dragonfly_executor.runner.cgroup_files import CgroupFiles
from dragonfly_executor.runner.memory_cgroups import set_up
files = CgroupFiles(sys.argv[1])
files.write(sys.argv[2], "cgroup.procs", str(os.getpid()))
groups = set_up(files, 0)
print(files.own(), "none" if groups is None else groups.leaf, flush=True)
sys.stdin.read()
if groups is not None:
    groups.close()
"""


@pytest.fixture
def home() -> Iterator[tuple[CgroupFiles, str, str]]:
    """A new cgroup: the files, the mount, and its path."""
    mount = next((each for each in MOUNTS if os.access(f"{each}/cgroup.procs", os.W_OK)), None)
    own = CgroupFiles().own()
    if mount is None or own is None or not os.access(f"{mount}{own.rstrip('/')}", os.W_OK):
        pytest.skip("no cgroup of version 2 can be made here")
    path = f"{own.rstrip('/')}/test-{os.getpid()}"
    files = CgroupFiles(mount)
    try:
        files.make(path)
    except OSError as error:
        pytest.skip(f"no cgroup of version 2 can be made here: {error}")
    yield files, mount, path
    for name in files.children(path):
        with suppress(OSError):
            files.remove(f"{path}/{name}")
    files.remove(path)


def program(mount: str, path: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, mount, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )


def test_a_kernel_without_the_controller_changes_nothing_and_one_with_it_makes_a_leaf(
    home: tuple[CgroupFiles, str, str],
) -> None:
    files, mount, path = home
    has_memory = "memory" in files.read(path, "cgroup.controllers").split()
    with program(mount, path) as agent:
        assert agent.stdout is not None
        own, leaf = agent.stdout.readline().split()
        expected = f"{path}/dragonfly-{agent.pid}.agent" if has_memory else path
        assert own == expected
        assert leaf == (expected if has_memory else "none")
        agent.communicate("", timeout=PATIENCE)
    assert files.children(path) == []


def test_processes_move_and_an_empty_cgroup_of_a_killed_agent_is_removed(home: tuple[CgroupFiles, str, str]) -> None:
    files, _, path = home
    with subprocess.Popen(["sleep", "100"]) as agent:
        name = f"dragonfly-{agent.pid}.agent"
        files.make(f"{path}/{name}")
        files.make(f"{path}/{name}")
        files.write(path, "cgroup.procs", str(agent.pid))
        memory_cgroups._move(files, path, f"{path}/{name}")
        assert memory_cgroups._pids(files, f"{path}/{name}") == {agent.pid}
        assert memory_cgroups._pids(files, path) == set()
        memory_cgroups._remove_stale(files, path, os.getpid())
        assert files.children(path) == [name], "this agent lives"
        with pytest.raises(OSError, match="busy"):
            files.remove(f"{path}/{name}")
        agent.send_signal(signal.SIGKILL)
        files.wait_until_empty(f"{path}/{name}", PATIENCE)
        assert "populated 0" in files.read(f"{path}/{name}", "cgroup.events")
        agent.wait()
    memory_cgroups._remove_stale(files, path, os.getpid())
    assert files.children(path) == []


def test_writes_that_the_kernel_refuses_are_errors(home: tuple[CgroupFiles, str, str]) -> None:
    files, _, path = home
    with pytest.raises(OSError, match="Invalid argument"):
        files.write(path, "cgroup.subtree_control", "+nonsense")
    with pytest.raises(FileNotFoundError):
        files.write(f"{path}/none", "cgroup.procs", "1")
    assert files.read(path, "nothing") == ""
    assert files.has(path, "cgroup.type")
    assert files.is_writable(path)
    if "memory" not in files.read(path, "cgroup.controllers").split():
        with pytest.raises(FileNotFoundError):
            files.write(path, "cgroup.subtree_control", "+memory")


# -- the memory controller of version 1, where the kernel has that -----------------------------------------------------

PROGRAM_OF_FIRST_VERSION = """
import os, sys
from dragonfly_executor.runner.memory_cgroups import set_up
from dragonfly_executor.runner.memory_limit import MemoryLimit
from dragonfly_executor.runner.slot_cgroup import SlotCgroup
from tests.support.first_version import FirstVersion

MIB = 2**20


def run_slot(size):
    limit = MemoryLimit(100 * MIB, lambda: SlotCgroup.find(files))
    for _ in range(2):
        limit.begin()
        assert files.own().endswith(f".slot-{os.getpid()}")
        used = bytearray(b"x") * (size * MIB)
        limit.end()
        del used
    used = bytearray(b"x") * (300 * MIB)
    os._exit(3)


files = FirstVersion()
before = files.own()
files.write(sys.argv[1], "cgroup.procs", str(os.getpid()))
groups = set_up(files, 0)
slots = []
for size in (50, 300):
    pid = os.fork()
    if not pid:
        run_slot(size)
    slots.append(pid)
for pid in slots:
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), groups.has_killed(pid), flush=True)
    groups.slot_ended(pid)
print(files.own() == groups.leaf, *files.children(sys.argv[1]), flush=True)
files.write(before, "cgroup.procs", str(os.getpid()))
groups.close()
"""


class LocalBackendInCgroup(LocalBackend):
    """Starts each agent in a cgroup, without the program that boots it. The agent takes version 1 for version 2."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def _command(self, inherited: list[int]) -> list[str]:
        *command, program = super()._command(inherited)
        source = first_version.__file__
        lines = f"""
import os, runpy
from dragonfly_executor.runner import cgroup_files
files = runpy.run_path({source!r})["FirstVersion"]
files().write({self._path!r}, "cgroup.procs", str(os.getpid()))
cgroup_files.CgroupFiles = files
"""
        assert "main([" in program
        return [*command, program.replace("main([", f"{lines}main([")]


@pytest.fixture
def home_of_first_version() -> Iterator[str]:
    files = FirstVersion()
    path = f"{(files.own() or '/none').rstrip('/')}/test-{os.getpid()}"
    try:
        Path(first_version.MOUNT + path).mkdir()
    except OSError as error:
        pytest.skip(f"the kernel has no memory controller of version 1, or no cgroup can be made there: {error}")
    yield path
    left = files.children(path)
    for name in left:
        files.wait_until_empty(f"{path}/{name}", PATIENCE)
        files.remove(f"{path}/{name}")
    files.wait_until_empty(path, PATIENCE)
    files.remove(path)


@pytest.mark.slow
def test_the_kernel_kills_the_slot_that_uses_too_much_and_no_other(home_of_first_version: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM_OF_FIRST_VERSION, home_of_first_version],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    calm, hungry, rest = ended.stdout.splitlines()
    assert (calm, hungry) == ("3 False", "-9 True")
    is_in_leaf, *left = rest.split()
    assert is_in_leaf == "True"
    assert [name.rpartition(".")[2] for name in left] == ["agent"], "the cgroups of both slots are gone"


def fill(size: int) -> int:
    return len(bytearray(b"x") * size)


def fill_in_child(size: int) -> int:
    program = f"print(len(bytearray(b'x') * {size}))"
    return int(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout)


def agent_pid() -> int:
    return os.getppid()


@pytest.mark.slow
def test_a_call_that_uses_more_than_it_requires_is_killed_and_told_and_others_go_on(
    home_of_first_version: str, make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    home = home_of_first_version
    files = FirstVersion()
    ex = make(2, backend=LocalBackendInCgroup(home))
    view: Any = ex.options(requires={"memory": "100MiB"})
    held = ex.submit(payloads.hold, mailbox.path, gate.path, "went on")
    mailbox.read()
    assert files.children(home) == [], "nothing is made before the first call that requires memory"
    for _ in range(2):
        error = view.submit(fill, 300 * MIB).exception(PATIENCE)
        assert isinstance(error, RunnerLostError)
        assert (error.signal, error.out_of_memory) == (signal.SIGKILL, True)
        assert "used more than the 104857600 bytes (100 MiB) of memory that it requires" in str(error)
    assert view.submit(fill, 50 * MIB).result(PATIENCE) == 50 * MIB
    assert isinstance(view.submit(fill_in_child, 300 * MIB).exception(PATIENCE), (RunnerLostError, CalledProcessError))
    assert ex.submit(fill, 300 * MIB).result(PATIENCE) == 300 * MIB, "a call that states nothing has no limit"
    gate.open()
    assert held.result(PATIENCE) == "went on"
    killed = error_of(ex.submit(payloads.die_by, signal.SIGKILL))
    assert isinstance(killed, RunnerLostError)
    assert not killed.out_of_memory, "another kill is not taken for that"
    ex.shutdown()
    assert files.children(home) == [], "the agent has removed what it has made"


@pytest.mark.slow
def test_what_a_killed_agent_leaves_is_removed_by_the_next_one(home_of_first_version: str, make: Make) -> None:
    home, files = home_of_first_version, FirstVersion()
    ex = make(1, backend=LocalBackendInCgroup(home))
    view: Any = ex.options(requires={"memory": "100MiB"})
    assert view.submit(fill, MIB).result(PATIENCE) == MIB
    first = ex.submit(agent_pid).result(PATIENCE)
    os.kill(first, signal.SIGKILL)
    assert view.submit(fill, MIB).result(PATIENCE) == MIB
    second = ex.submit(agent_pid).result(PATIENCE)
    assert second != first
    assert {name.partition(".")[0] for name in files.children(home)} == {f"dragonfly-{second}"}
