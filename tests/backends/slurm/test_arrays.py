"""Boots that begin at once are the elements of a job array: each starts, ends, and is found by itself."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dragonfly_executor import BootError, BootRequest, DragonflyExecutor, Node, Parent, Pool, RunnerLostError
from dragonfly_executor.backends.base import CancelToken
from dragonfly_executor.backends.owner import Liveness
from dragonfly_executor.backends.slurm.backend import SlurmBackend
from dragonfly_executor.backends.slurm.node import SlurmNode
from tests.backends.slurm.test_chaos import program
from tests.support.helpers import PATIENCE, Events, Gate, Mailbox, all_ended, error_of, watching
from tests.support.payloads import hold
from tests.support.slurm_cluster import SlurmCluster

pytestmark = pytest.mark.engine

MakeBackend = Callable[..., SlurmBackend]
LATER = {"begin": "now+1hour"}


class Programs:
    """Programs that take the place of Slurm's: each writes its arguments into a file, then does something.

    Attributes:
        env: the environment in which they are found first.
    """

    def __init__(self, cluster: SlurmCluster, folder: Path) -> None:
        self._path = cluster.env["PATH"]
        self._folder = folder
        folder.mkdir()
        self.env = {**cluster.env, "PATH": f"{folder}:{self._path}"}

    def replace(self, name: str, text: str) -> None:
        """Replace a program. In `text`, its own name stands for the real one."""
        lines = f'#!/bin/sh\necho "$@" >> {self._folder}/{name}-calls\nPATH={self._path}\n{text}\n'
        (self._folder / name).write_text(lines)
        (self._folder / name).chmod(0o755)

    def calls(self, name: str) -> list[str]:
        """Return the arguments of each call of a program so far."""
        path = self._folder / f"{name}-calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def programs(cluster: SlurmCluster, tmp_path: Path) -> Programs:
    return Programs(cluster, tmp_path / "bin")


def requests(count: int) -> list[BootRequest]:
    """Boots without a pool. Their runners have nobody to dial."""
    return [BootRequest(n, Parent.new("test", n, "slurm"), PATIENCE, CancelToken()) for n in range(1, count + 1)]


def boot_many(backend: SlurmBackend, count: int) -> list[SlurmNode]:
    """Boot nodes together."""
    nodes = [outcome for _, outcome in backend.boot_many(requests(count))]
    assert all(isinstance(node, SlurmNode) for node in nodes), nodes
    return [node for node in nodes if isinstance(node, SlurmNode)]


def stop(nodes: Sequence[Node]) -> None:
    for node in nodes:
        node.stop()


def names_of_tokens(mailbox: str, gate: str) -> list[str]:
    """Hold the slot, then return the variables with descriptions of a parent here and in the agent."""
    hold(mailbox, gate)
    agent = Path(f"/proc/{os.getppid()}/environ").read_bytes().decode(errors="replace").split("\0")
    return sorted({line.partition("=")[0] for line in agent if line.startswith("DRAGONFLY_PARENT")} | {
        name for name in os.environ if name.startswith("DRAGONFLY_PARENT")
    })  # fmt: skip


def test_runners_that_boot_at_once_are_one_array(
    make_backend: MakeBackend, programs: Programs, cluster: SlurmCluster, mailbox: Mailbox, gate: Gate
) -> None:
    """Each of them has its own token, and none of another one."""
    programs.replace("sbatch", 'exec sbatch "$@"')
    with DragonflyExecutor(backend=make_backend(command_env=programs.env), min=4, max=4) as executor:
        futures = [executor.submit(names_of_tokens, mailbox.path, gate.path) for _ in range(4)]
        assert len(set(mailbox.numbers(4))) == 4
        (words,) = programs.calls("sbatch")
        assert "--array=0-3" in words
        base = cluster.jobs()[0].partition("_")[0]
        assert sorted(cluster.jobs()) == [f"{base}_{index}" for index in range(4)]
        gate.open(4)
        assert [future.result(PATIENCE) for future in futures] == [["DRAGONFLY_PARENT"]] * 4
    assert cluster.jobs() == []


def test_a_boot_that_is_aborted_ends_its_element_alone(
    make_backend: MakeBackend, cluster: SlurmCluster, tmp_path: Path
) -> None:
    """The latest boots go first. The others keep their place in the queue."""
    told = Events()
    pool = Pool("array", min=4, max=4, backend=make_backend(options=LATER), on_event=told)
    try:
        cluster.wait_until(lambda: pool.stats().boots_queued == 4, "the elements in the queue")
        pool.resize(min=2, max=2)
        for _ in range(2):
            told.wait("boot given up")
        cluster.wait_until(lambda: len(cluster.jobs()) == 2, "the end of two elements")
        assert sorted(each.partition("_")[2] for each in cluster.jobs()) == ["0", "1"]
        assert (pool.stats().boots_queued, pool.stats().boots_failed) == (2, 0)
        assert len(list((tmp_path / "journal").glob("*.json"))) == 2
    finally:
        pool.kill()
        pool.join()
    assert cluster.jobs() == []
    assert not list((tmp_path / "journal").glob("*.json"))


def test_an_element_that_runs_is_stopped_alone(make_backend: MakeBackend, cluster: SlurmCluster) -> None:
    """Elements beside it run on, and those that wait still wait."""
    blocker = cluster.submit("--cpus-per-task=2", "--wrap=sleep 1000")
    cluster.wait_until(lambda: cluster.state(blocker) == "RUNNING", "the start of the job that is in the way")
    nodes = boot_many(make_backend(setup="exec sleep 1000"), 4)
    try:
        cluster.wait_until(lambda: cluster.state(nodes[1].job_id) == "RUNNING", "the start of two elements")
        nodes[0].stop()
        cluster.run("scancel", blocker)
        left = {node.job_id for node in nodes[1:]}
        assert left <= set(cluster.jobs())
        nodes[3].stop()
        assert left - {nodes[3].job_id} <= set(cluster.jobs())
    finally:
        stop(nodes)
        cluster.run("scancel", blocker)
    cluster.wait_until(lambda: not cluster.jobs(), "the end of all jobs")


def test_an_element_that_fails_says_it_with_its_own_log(make_backend: MakeBackend) -> None:
    nodes = boot_many(make_backend(setup="echo element $SLURM_ARRAY_TASK_ID; exit 3"), 2)
    try:
        for index, node in enumerate(nodes):
            end, error = time.monotonic() + PATIENCE, None
            while error is None and time.monotonic() < end:
                error = node.ended(5.0)
            assert error is not None
            assert f"job {node.job_id} ended as FAILED (NonZeroExitCode)" in str(error)
            assert error.output == f"element {index}"
    finally:
        stop(nodes)


# -- submissions that go wrong -----------------------------------------------------------------------------------------


def test_a_lost_answer_leaves_no_element(
    make_backend: MakeBackend, programs: Programs, cluster: SlurmCluster, tmp_path: Path
) -> None:
    programs.replace("sbatch", 'sbatch "$@" >/dev/null; kill -9 $$')
    with pytest.raises(BootError, match="exit status -9"):
        boot_many(make_backend(command_env=programs.env, options=LATER), 3)
    assert len(programs.calls("sbatch")) == 1
    assert cluster.jobs() == []
    assert not list((tmp_path / "journal").glob("*.json"))


def test_a_lost_answer_that_cannot_be_looked_up_is_swept_later(
    make_backend: MakeBackend, programs: Programs, cluster: SlurmCluster
) -> None:
    """The journal has a name for each element."""
    programs.replace("sbatch", 'sbatch "$@" >/dev/null; kill -9 $$')
    programs.replace("squeue", "exit 1")
    with pytest.raises(BootError, match="exit status -9"):
        boot_many(make_backend(command_env=programs.env, options=LATER), 3)
    assert len(cluster.jobs()) == 3
    swept = make_backend().sweep()
    assert [one.why for one in swept.destroyed] == ["its pool has released it"] * 3
    assert cluster.jobs() == []


def test_boots_that_are_all_given_up_end_a_submission_that_hangs(
    make_backend: MakeBackend, programs: Programs, cluster: SlurmCluster
) -> None:
    """One of them alone does not."""
    programs.replace("sbatch", "exec sleep 1000")
    pool = Pool("hangs", min=3, max=3, backend=make_backend(command_env=programs.env))
    cluster.wait_until(lambda: programs.calls("sbatch"), "sbatch")
    pool.resize(min=2, max=2)
    began = time.monotonic()
    pool.shutdown()
    assert time.monotonic() - began < 5
    assert len(programs.calls("sbatch")) == 1
    assert cluster.jobs() == []


@pytest.mark.parametrize(
    ("size", "submissions"), [(0, [3, 1, 1, 1]), (1001, [3, 1, 1, 1]), (2, [3, 2, 1])], ids=["off", "refused", "small"]
)
def test_a_site_that_refuses_arrays_gets_single_jobs(
    make_backend: MakeBackend,
    programs: Programs,
    cluster: SlurmCluster,
    size: int,
    submissions: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Or smaller arrays, if they are too large for the site. The pool does not try again."""
    said = "sbatch: error: Batch job submission failed: Invalid job array specification"
    refused = "2-9" if size == 2 else "1-9"
    case = f"*--array=0-[{refused}]*) echo '{said}' >&2; exit 1;;"
    programs.replace("sbatch", f'case "$*" in {case} esac\nexec sbatch "$@"')
    programs.replace("scontrol", f"echo 'MaxArraySize            = {size}'")
    backend = make_backend(command_env=programs.env, options=LATER)
    nodes = boot_many(backend, 3)
    assert len(cluster.jobs()) == 3
    assert [count_of(words) for words in programs.calls("sbatch")] == submissions
    assert backend.max_boots_per_request == (2 if size == 2 else 1)
    assert "Slurm refused an array of 3 jobs" in caplog.text
    stop(nodes)
    assert cluster.jobs() == []


def test_a_limit_of_jobs_lets_as_many_in_as_fit(
    make_backend: MakeBackend, programs: Programs, cluster: SlurmCluster
) -> None:
    """Slurm refuses an array as a whole. The next array may fit again."""
    refuse = "echo 'sbatch: error: AssocMaxSubmitJobLimit' >&2; exit 1"
    full = f'[ "$(squeue -h | wc -l)" -lt 2 ] || {{ {refuse}; }}'
    programs.replace("sbatch", f'case "$*" in *--array*) {refuse};; esac\n{full}\nexec sbatch "$@"')
    backend = make_backend(command_env=programs.env, options=LATER)
    outcomes = [outcome for _, outcome in backend.boot_many(requests(3))]
    nodes = [each for each in outcomes if isinstance(each, SlurmNode)]
    assert len(nodes) == len(cluster.jobs()) == 2
    assert "AssocMaxSubmitJobLimit" in str(outcomes[2])
    assert backend.max_boots_per_request == SlurmBackend.max_boots_per_request
    stop(nodes)
    assert cluster.jobs() == []


def count_of(words: str) -> int:
    """Return how many jobs a call of sbatch asks for."""
    return int(words.partition("--array=0-")[2].split()[0]) + 1 if "--array=" in words else 1


# -- the parent, and what it leaves ------------------------------------------------------------------------------------


def test_elements_are_listed_and_destroyed_one_by_one(make_backend: MakeBackend, cluster: SlurmCluster) -> None:
    backend = make_backend(options=LATER)
    nodes = boot_many(backend, 3)
    try:
        found = {one.node_id: one for one in backend.list_nodes()}
        assert set(found) == {node.job_id for node in nodes}
        assert {one.name for one in found.values()} == {node.name for node in nodes}
        assert all(one.liveness is Liveness.ALIVE and one.in_journal for one in found.values())
        assert backend.sweep() == ([], [])
        destroyed = backend.destroy_nodes([found[nodes[1].job_id]])
        assert [one.node_id for one in destroyed.destroyed] == [nodes[1].job_id]
        assert sorted(cluster.jobs()) == sorted((nodes[0].job_id, nodes[2].job_id))
    finally:
        stop(nodes)
    assert cluster.jobs() == []
    assert backend.list_nodes() == []


def test_a_killed_parent_leaves_neither_elements_that_run_nor_elements_that_wait(
    cluster: SlurmCluster, make_backend: MakeBackend, tmp_path: Path, mailbox: Mailbox, gate: Gate
) -> None:
    """Four of six run. They end with their parent. A sweep cancels the others, whose parent nobody else knows."""
    runners = program(cluster, tmp_path / "logs", mailbox, gate, "runners=6")
    with runners as parent, watching(*mailbox.numbers(4)) as slots:
        cluster.wait_until(lambda: len(cluster.jobs()) == 6, "the elements")
        assert len({each.partition("_")[0] for each in cluster.jobs()}) == 1
        waiting = {each for each in cluster.jobs() if cluster.state(each) == "PENDING"}
        assert len(waiting) == 2
        parent.kill()
        parent.wait()
        backend = make_backend(journal=tmp_path / "logs-journal")
        orphans = {one.node_id for one in backend.list_nodes() if one.is_orphan}
        assert waiting <= orphans
        swept = backend.sweep()
        assert swept.left == []
        cluster.wait_until(lambda: not cluster.jobs(), "the end of all elements")
        assert all_ended(slots)


# -- why a runner was lost ---------------------------------------------------------------------------------------------


def lose(backend: SlurmBackend, mailbox: Mailbox, gate: Gate) -> str:
    """Return the error of a call whose runner is killed, and with it its job."""
    with DragonflyExecutor(backend=backend, max=1) as executor:
        future = executor.submit(hold, mailbox.path, gate.path)
        stat = Path(f"/proc/{mailbox.read()}/stat").read_text()
        agent = int(stat.rpartition(")")[2].split()[1])
        os.kill(agent, signal.SIGKILL)
        error = error_of(future)
        assert isinstance(error, RunnerLostError)
        return str(error)


def test_a_loss_is_explained_by_the_accounting(
    make_backend: MakeBackend, programs: Programs, mailbox: Mailbox, gate: Gate
) -> None:
    programs.replace(
        "sacct",
        'for last; do id="${last#--jobs=}"; done\necho "$id|OUT_OF_MEMORY|0:9|\n$id.batch|OUT_OF_MEMORY|0:9|812K"',
    )
    text = lose(make_backend(command_env=programs.env), mailbox, gate)
    assert "used more memory than it asked for: ask for more with SlurmBackend(mem=...) (signal 9, 812K at most" in text


def test_a_loss_is_explained_by_the_queue_where_there_is_no_accounting(
    make_backend: MakeBackend, programs: Programs, mailbox: Mailbox, gate: Gate
) -> None:
    """sacct says so itself, and is asked no more."""
    programs.replace("sacct", 'exec sacct "$@"')
    backend = make_backend(command_env=programs.env)
    for _ in range(2):
        text = lose(backend, mailbox, gate)
        assert ". job " in text
        assert "ended as FAILED (" in text
    assert len(programs.calls("sacct")) == 1


def test_a_boot_whose_job_is_forgotten_is_explained_by_the_accounting(
    make_backend: MakeBackend, programs: Programs, cluster: SlurmCluster
) -> None:
    programs.replace("sacct", 'for last; do id="${last#--jobs=}"; done\necho "$id|CANCELLED by 1000|0:0|"')
    nodes = boot_many(make_backend(command_env=programs.env, options=LATER), 2)
    try:
        # An element that never started is forgotten as soon as it is cancelled.
        cluster.run("scancel", nodes[0].job_id)
        end, error = time.monotonic() + PATIENCE, None
        while error is None and time.monotonic() < end:
            error = nodes[0].ended(5.0)
        assert f"job {nodes[0].job_id} was cancelled (by user 1000)" in str(error)
        assert nodes[1].ended(1.5) is None
    finally:
        stop(nodes)
