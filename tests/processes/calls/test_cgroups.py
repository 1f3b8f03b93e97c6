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
