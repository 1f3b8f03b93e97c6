"""Supervisor and agent of a runner are both killed: the next boot on the host ends what they left, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import RunnerLostError
from dragonfly_executor.runner import orphans
from dragonfly_executor.runner.orphans import MARK, PREFIX, RunnerRecord, sweep
from dragonfly_executor.runner.process_tree import DETACH_VARIABLE
from dragonfly_executor.sync import Sync
from tests.backends.ssh.calls import hold
from tests.backends.ssh.conftest import Make, MakeBackend
from tests.support.helpers import PATIENCE, Gate, Mailbox, all_ended, error_of, killing, watching
from tests.support.sshd.host import Host

THIS = f"{PREFIX}{os.geteuid()}-"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder for what need not last."""
    (tmp_path / "tmp").mkdir()
    return tmp_path / "tmp"


def hold_with_orphans(mailbox: str, gate: str, pids: str) -> Callable[[], None]:
    """Says its number and its agent's, and waits. It has started a program, and a daemon that it has only forked."""

    def call() -> None:
        import os
        import signal
        import subprocess
        import sys

        ready, told = os.pipe()
        if not os.fork():
            os.setsid()
            if not os.fork():
                with open(pids, "w") as file:
                    file.write(f"{os.getpid()} ")
                os.write(told, b".")
                signal.pause()
            os._exit(0)
        os.read(ready, 1)
        program = [sys.executable, "-I", "-c", "import signal; signal.pause()"]
        with open(pids, "a") as file:
            file.write(f"{subprocess.Popen(program, start_new_session=True).pid}")
        with open(mailbox, "w") as box:
            box.write(f"{os.getpid()} {os.getppid()}\n")
        os.read(os.open(gate, os.O_RDONLY), 1)

    return call


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])


def kill_both(agent: int) -> int:
    """Kill an agent and its keeper; the keeper's number."""
    keeper = parent_of(agent)
    with watching(keeper, agent) as watches:
        os.kill(keeper, signal.SIGKILL)
        os.kill(agent, signal.SIGKILL)
        assert all_ended(watches)
    return keeper


@pytest.mark.parametrize("connect", ["channel", "direct"])
def test_the_next_boot_ends_what_a_killed_keeper_and_agent_left(
    host: Host,
    make_backend: MakeBackend,
    make: Make,
    mailbox: Mailbox,
    gate: Gate,
    folder: Path,
    connect: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder.parent)
    Path("table").write_text("of the parent's")
    backend = make_backend(host, connect=connect, env={"TMPDIR": str(folder)}, sync=Sync(["table"]))
    executor, pids = make(backend, max_concurrency=1), folder.parent / "pids"
    future = executor.submit(hold_with_orphans(mailbox.path, gate.path, str(pids)))
    slot, agent = map(int, mailbox.read().split())
    with killing(slot) as slots, killing(*map(int, pids.read_text().split())) as orphans:
        kill_both(agent)
        assert isinstance(error_of(future), RunnerLostError)
        assert all_ended(slots)
        assert not any(watch.ended(0.0) for watch in orphans)
        assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
        assert all_ended(orphans)
    executor.shutdown()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("killed", ["keeper", "nobody"])
def test_a_runner_whose_agent_lives_is_left_alone(
    host: Host, make_backend: MakeBackend, make: Make, mailbox: Mailbox, gate: Gate, folder: Path, killed: str
) -> None:
    """Its keeper may be gone: over a connection of its own it serves on."""
    backend = make_backend(host, connect="direct", env={"TMPDIR": str(folder)}, runners_per_host=3)
    first, second = make(backend, max_concurrency=1, max=1), make(backend, max_concurrency=1, max=2)
    future = first.submit(hold(mailbox.path, gate.path))
    _, agent = map(int, mailbox.read().split())
    if killed == "keeper":
        with watching(parent_of(agent)) as keeper:
            os.kill(keeper[0].pid, signal.SIGKILL)
            assert all_ended(keeper)
    lost = second.submit(hold(mailbox.path, gate.path))
    _, other = map(int, mailbox.read().split())
    kill_both(other)
    assert isinstance(error_of(lost), RunnerLostError)
    assert second.submit(pow, 2, 10).result(PATIENCE) == 1024
    assert not future.done()
    gate.open()
    assert future.result(PATIENCE) > 0


# -- records -----------------------------------------------------------------------------------------------------------

MarkedProcess = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def marked() -> Iterator[MarkedProcess]:
    """Starts processes with a mark."""
    started: list[subprocess.Popen[bytes]] = []

    def start(mark: str, **more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", "-S", "-c", "import signal; print(flush=True); signal.pause()"]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, env={MARK: mark, **more}))
        assert started[-1].stdout
        started[-1].stdout.readline()
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


def record(folder: Path, mark: str, **changed: Any) -> Path:
    """The record of a runner whose keeper and agent are gone."""
    with subprocess.Popen(["true"]) as gone:
        started = orphans._started(gone.pid)
    said = {"space": orphans._space(), "alive": [[gone.pid, started], [gone.pid, None]]}
    path = folder / f"{THIS}{mark}"
    path.write_text(json.dumps(said | changed))
    return path


MARKS = "0123456789abcdef", "fedcba9876543210"


def test_only_what_has_the_mark_is_ended(folder: Path, marked: MarkedProcess) -> None:
    ours, other, detached = marked(MARKS[0]), marked(MARKS[1]), marked(MARKS[0], **{DETACH_VARIABLE: "1"})
    path = record(folder, MARKS[0])
    assert sweep(str(folder)) == [MARKS[0]]
    assert ours.wait(PATIENCE) == -signal.SIGKILL
    assert (other.poll(), detached.poll()) == (None, None)
    assert not path.exists()


def test_a_number_that_was_given_out_again_is_not_the_keeper(folder: Path, marked: MarkedProcess) -> None:
    ours = marked(MARKS[0])
    record(folder, MARKS[0], alive=[[os.getpid(), 1]])
    assert sweep(str(folder)) == [MARKS[0]]
    assert ours.wait(PATIENCE) == -signal.SIGKILL


@pytest.mark.parametrize(
    "changed",
    [
        {"alive": [[os.getpid(), orphans._started(os.getpid())]]},
        {"space": "another boot pid:[1]"},
        {"alive": "x"},
        {"alive": [["x", 1]]},
    ],
    ids=["alive", "elsewhere", "no list", "no number"],
)
def test_a_runner_that_may_be_alive_is_left_alone(folder: Path, marked: MarkedProcess, changed: Any) -> None:
    ours, path = marked(MARKS[0]), record(folder, MARKS[0], **changed)
    assert sweep(str(folder)) == []
    assert ours.poll() is None
    assert path.exists()


def test_files_that_are_no_records_are_left_alone(folder: Path, marked: MarkedProcess) -> None:
    ours, path = marked(MARKS[0]), record(folder, MARKS[0])
    path.rename(folder / "elsewhere")
    path.symlink_to(folder / "elsewhere")
    (folder / f"{THIS}{MARKS[1]}").mkdir()
    (folder / f"{THIS}x").write_text("{}")
    assert sweep(str(folder)) == []
    assert ours.poll() is None
    assert len(list(folder.iterdir())) == 4


def test_the_record_of_another_user_is_left_alone(folder: Path, marked: MarkedProcess) -> None:
    """In a folder in which everybody may write."""
    ours, path = marked(MARKS[0]), record(folder, MARKS[0])
    try:
        os.chown(path, os.geteuid() + 1, -1)
    except PermissionError:
        pytest.skip("only root can give a file away")
    assert sweep(str(folder)) == []
    assert ours.poll() is None


def test_a_record_of_elsewhere_goes_when_it_is_stale(folder: Path) -> None:
    path = record(folder, MARKS[0], space="elsewhere")
    os.utime(path, (time.time(), time.time() - 1.1 * orphans.STALE))
    assert sweep(str(folder)) == [MARKS[0]]
    assert not path.exists()


def test_a_runner_without_a_mark_has_no_record(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARK, "../x")
    RunnerRecord(os.getpid(), str(folder)).remove()
    assert list(folder.iterdir()) == []


def test_a_record_that_cannot_be_written_is_no_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARK, MARKS[0])
    RunnerRecord(os.getpid(), str(folder / "missing")).remove()
    made = RunnerRecord(os.getpid(), str(folder))
    assert [path.name for path in folder.iterdir()] == [f"{THIS}{MARKS[0]}"]
    assert sweep(str(folder)) == []
    made.remove()
    assert list(folder.iterdir()) == []
