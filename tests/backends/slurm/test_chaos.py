"""The parent is killed, and so are Slurm's own daemons: calls go on where they can, and no process is left."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dragonfly_executor import DragonflyExecutor, RunnerLostError
from dragonfly_executor.backends.slurm.backend import SlurmBackend
from tests.support.helpers import PATIENCE, Gate, Mailbox, all_ended, error_of, watching
from tests.support.payloads import hold, pid
from tests.support.slurm_cluster import SlurmCluster, missing_programs, slurm_cluster

pytestmark = pytest.mark.engine

MakeBackend = Callable[..., SlurmBackend]


@pytest.fixture
def cluster() -> Iterator[SlurmCluster]:
    """A cluster of the test's own, whose daemons it may kill."""
    if missing := missing_programs():
        pytest.skip(f"Slurm is not installed here: no {', '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="slurm") as folder, slurm_cluster(Path(folder)) as running:
        yield running


@contextmanager
def program(
    cluster: SlurmCluster, logs: Path, mailbox: Mailbox, gate: Gate, *options: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `tests.backends.slurm.program`; kill it if it still runs."""
    words = [cluster.env["SLURM_CONF"], str(logs), mailbox.path, gate.path, *options]
    command = [sys.executable, "-m", "tests.backends.slurm.program", *words]
    running = subprocess.Popen(command, env={**cluster.env, "PATH": cluster.env["PATH"]})
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def test_a_killed_parent_leaves_no_running_job(
    cluster: SlurmCluster, tmp_path: Path, mailbox: Mailbox, gate: Gate
) -> None:
    with program(cluster, tmp_path / "logs", mailbox, gate) as parent, watching(int(mailbox.read())) as slots:
        parent.kill()
        cluster.wait_until(lambda: not cluster.jobs(), "the end of the job")
        assert all_ended(slots)


def test_a_job_that_starts_when_its_parent_was_killed_ends_by_itself(
    cluster: SlurmCluster, tmp_path: Path, mailbox: Mailbox, gate: Gate
) -> None:
    """It waited in the queue until then. Nobody takes its runner, which gives up."""
    with program(cluster, tmp_path / "logs", mailbox, gate, "begin=now+1hour") as parent:
        cluster.wait_until(cluster.jobs, "the job in the queue")
        parent.kill()
        parent.wait()
        (job,) = cluster.jobs()
        cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")
        cluster.wait_until(lambda: cluster.state(job) not in ("PENDING", "RUNNING", "COMPLETING"), "the end of the job")
    assert "dragonfly runner: " in (tmp_path / "logs" / f"{job}.log").read_text()


def test_calls_go_on_while_the_controller_is_away(
    cluster: SlurmCluster, make_backend: MakeBackend, mailbox: Mailbox, gate: Gate
) -> None:
    """What runs needs no controller. The job's end is told to Slurm when it is back."""
    with DragonflyExecutor(backend=make_backend(), max=1) as executor:
        future = executor.submit(hold, mailbox.path, gate.path, "done")
        mailbox.read()
        cluster.kill("slurmctld")
        assert executor.pool.stats().runners_up == 1
        gate.open()
        assert future.result(PATIENCE) == "done"
        assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
        cluster.start_controller()
    cluster.wait_until(lambda: not cluster.jobs(), "the end of the job")


def test_a_boot_in_the_queue_outlives_a_restart_of_the_controller(
    cluster: SlurmCluster, make_backend: MakeBackend
) -> None:
    blocker = cluster.submit("--cpus-per-task=4", "--wrap=sleep 1000")
    cluster.wait_until(lambda: cluster.state(blocker) == "RUNNING", "the start of the job that is in the way")
    with DragonflyExecutor(backend=make_backend(), max=1) as executor:
        future = executor.submit(os.getpid)
        cluster.wait_until(lambda: len(cluster.jobs()) == 2, "the runner's job")
        cluster.terminate("slurmctld")
        cluster.start_controller()
        assert len(cluster.jobs()) == 2
        cluster.run("scancel", blocker)
        assert future.result(PATIENCE)
        assert executor.pool.stats().boots_attempted == 1


def test_a_job_that_a_killed_controller_has_forgotten_is_submitted_again(
    cluster: SlurmCluster, make_backend: MakeBackend
) -> None:
    """A controller writes a new job down only after some seconds."""
    with DragonflyExecutor(backend=make_backend(options={"begin": "now+1hour"}), max=1) as executor:
        future = executor.submit(os.getpid)
        cluster.wait_until(cluster.jobs, "the job in the queue")
        (first,) = cluster.jobs()
        cluster.kill("slurmctld")
        cluster.forget_jobs()
        cluster.start_controller()
        cluster.wait_until(lambda: set(cluster.jobs()) - {first} or executor.pool.stats().boots_attempted > 1, "a job")
        cluster.wait_until(cluster.jobs, "the second job")
        cluster.run("scontrol", "update", f"JobId={cluster.jobs()[0]}", "StartTime=now")
        assert future.result(PATIENCE)
        assert "is gone from Slurm's queue" in str(executor.pool.stats().last_boot_error)


def test_calls_go_on_while_the_nodes_daemon_is_restarted(
    cluster: SlurmCluster, make_backend: MakeBackend, mailbox: Mailbox, gate: Gate
) -> None:
    with DragonflyExecutor(backend=make_backend(), max=1) as executor:
        future = executor.submit(hold, mailbox.path, gate.path, "done")
        mailbox.read()
        cluster.kill("slurmd")
        cluster.start_node()
        gate.open()
        assert future.result(PATIENCE) == "done"
    cluster.wait_until(lambda: not cluster.jobs(), "the end of the job")


def test_a_cancelled_job_loses_its_call_and_is_replaced(
    cluster: SlurmCluster, make_backend: MakeBackend, mailbox: Mailbox, gate: Gate
) -> None:
    """Somebody else runs scancel, which sends SIGTERM: the runner gives its calls their time, then says who did it."""
    with DragonflyExecutor(backend=make_backend(), max=1) as executor:
        future = executor.submit(hold, mailbox.path, gate.path)
        mailbox.read()
        cluster.run("scancel", "--full", "--signal=KILL", cluster.jobs()[0])
        error = error_of(future)
        assert isinstance(error, RunnerLostError)
        assert executor.submit(pid).result(PATIENCE)
        assert executor.pool.stats().boots_attempted == 2
