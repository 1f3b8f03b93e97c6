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

import pytest

from dragonfly_executor.runner import memory_cgroups
from dragonfly_executor.runner.cgroup_files import CgroupFiles
from tests.support.helpers import PATIENCE

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

FIRST_VERSION = "/sys/fs/cgroup/memory"
PROGRAM_OF_FIRST_VERSION = """
import os, sys
from dragonfly_executor.runner.cgroup_files import CgroupFiles
from dragonfly_executor.runner.memory_cgroups import set_up
from dragonfly_executor.runner.memory_limit import MemoryLimit
from dragonfly_executor.runner.slot_cgroup import SlotCgroup

MIB = 2**20
NAMES = {
    "memory.max": "memory.limit_in_bytes",
    "memory.current": "memory.usage_in_bytes",
    "memory.events": "memory.oom_control",
}


class FirstVersion(CgroupFiles):
    def own(self):
        lines = [line.split(":", 2) for line in open("/proc/self/cgroup").read().splitlines()]
        return next(path for _, names, path in lines if "memory" in names.split(","))

    def read(self, path, file):
        said = {"cgroup.controllers": "memory", "cgroup.type": "domain"}
        return said[file] if file in said else super().read(path, NAMES.get(file, file))

    def write(self, path, file, text):
        if file not in ("cgroup.subtree_control", "memory.oom.group"):
            super().write(path, NAMES.get(file, file), "-1" if text == "max" else text)

    def has(self, path, file):
        return file == "cgroup.type"

    def is_writable(self, path):
        return True

    def is_delegated(self, path):
        return True


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


files = FirstVersion(sys.argv[1])
before = files.own()
files.write(sys.argv[2], "cgroup.procs", str(os.getpid()))
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
print(files.own() == groups.leaf, *files.children(sys.argv[2]), flush=True)
files.write(before, "cgroup.procs", str(os.getpid()))
groups.close()
"""


@pytest.fixture
def home_of_first_version() -> Iterator[str]:
    groups = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    path = f"{groups.get('memory', '/none').rstrip('/')}/test-{os.getpid()}"
    try:
        Path(FIRST_VERSION + path).mkdir()
    except OSError as error:
        pytest.skip(f"the kernel has no memory controller of version 1, or no cgroup can be made there: {error}")
    yield path
    for name in CgroupFiles(FIRST_VERSION).children(path):
        Path(f"{FIRST_VERSION}{path}/{name}").rmdir()
    Path(FIRST_VERSION + path).rmdir()


@pytest.mark.slow
def test_the_kernel_kills_the_slot_that_uses_too_much_and_no_other(home_of_first_version: str) -> None:
    """Both versions charge and kill alike. Version 1 has no rule on inner cgroups, and kills one process."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM_OF_FIRST_VERSION, FIRST_VERSION, home_of_first_version],
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
