"""Jobs that wait, jobs that never start, jobs that end: what a boot makes of each."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path

import pytest

from dragonfly_executor import BootError, BootRequest, BootTimeoutError, DragonflyExecutor, Parent, RunnerLostError
from dragonfly_executor.backends.base import CancelToken
from dragonfly_executor.backends.slurm.backend import SlurmBackend
from tests.support.helpers import PATIENCE, Events, Gate, Mailbox
from tests.support.payloads import hold
from tests.support.silent_program import silent_program
from tests.support.slurm_cluster import SlurmCluster

pytestmark = pytest.mark.engine

MakeBackend = Callable[..., SlurmBackend]


def request(**more: object) -> BootRequest:
    """A boot without a pool. Its runner has nobody to dial."""
    return BootRequest(1, Parent.new("test", 1, "slurm"), PATIENCE, CancelToken())._replace(**more)


def boot_error(backend: SlurmBackend) -> BootError:
    """The error of a boot, whose job may wait until it fails."""
    try:
        node = backend.boot(request())
    except BootError as error:
        return error
    try:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if (error := node.ended(5.0)) is not None:
                return error
        raise AssertionError("the boot did not fail")
    finally:
        node.stop()


def test_calls_run_on_several_jobs(make_backend: MakeBackend, mailbox: Mailbox, gate: Gate) -> None:
    """Each job is a runner of its own, with as many calls at once as it has CPUs."""
    with DragonflyExecutor(backend=make_backend(cpus_per_task=2), max=2) as executor:
        futures = [executor.submit(hold, mailbox.path, gate.path) for _ in range(4)]
        assert len(set(mailbox.numbers(4))) == 4
        assert executor.pool.stats().runners_up == 2
        gate.open(4)
        wait(futures)


def test_a_job_that_waits_is_not_late(make_backend: MakeBackend, cluster: SlurmCluster) -> None:
    """`boot_timeout` counts from the start of the job."""
    blocker = cluster.submit("--cpus-per-task=4", "--wrap=sleep 1000")
    cluster.wait_until(lambda: cluster.state(blocker) == "RUNNING", "the start of the job that is in the way")
    waits = threading.Event()
    with DragonflyExecutor(backend=make_backend(), max=1, boot_timeout=3) as executor:
        future = executor.submit(os.getpid)
        cluster.wait_until(lambda: len(cluster.jobs()) == 2, "the runner's job")
        assert not waits.wait(5)  # longer than boot_timeout
        assert not future.done()
        assert executor.pool.stats().runners_booting == 1
        cluster.run("scancel", blocker)
        assert future.result(PATIENCE)
        assert executor.pool.stats().boots_failed == 0


def test_a_job_in_the_queue_says_how_it_stands(make_backend: MakeBackend, cluster: SlurmCluster) -> None:
    """In `stats`, and as an event, which the log shows too."""
    told = Events()
    with DragonflyExecutor(backend=make_backend(options={"begin": "now+1hour"}), max=2, on_event=told) as executor:
        futures = [executor.submit(os.getpid) for _ in range(2)]
        text = told.wait("queued")["text"]
        assert re.fullmatch(
            r"runner \d waits to start: job [\d_]+ is PENDING \(BeginTime\), expected to start at 20.*", text
        )
        cluster.wait_until(lambda: len(executor.pool.stats().progress) == 2, "the progress of both")
        explain = executor.pool.stats().explain
        assert re.search(r"2 booting \(2 in a queue: job [\d_]+ is PENDING \(BeginTime\), .* and 1 more\)", explain)
        wait([future for future in futures if not future.cancel()])


def test_a_job_at_its_time_limit_gives_way_to_another_one(
    make_backend: MakeBackend, cluster: SlurmCluster, mailbox: Mailbox, gate: Gate
) -> None:
    """Its runner drains before that. The call that is too long for it hears who has ended it."""
    with DragonflyExecutor(backend=make_backend(time=1), max=2) as executor:
        future = executor.submit(hold, mailbox.path, gate.path)
        mailbox.read()
        cluster.wait_until(lambda: executor.pool.stats().runners_up == 0, "the drain")
        assert not future.done()
        assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
        error = future.exception(PATIENCE)
        assert isinstance(error, RunnerLostError)
        assert "Slurm" in str(error)
        assert "time limit" in str(error)


def test_a_pool_ends_in_time_while_squeue_hangs(
    make_backend: MakeBackend, cluster: SlurmCluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether the job is gone cannot be seen then, and is said."""
    folder = tmp_path / "bin"
    folder.mkdir()
    _, wait_for_squeue = silent_program(folder / "squeue")
    env = {**cluster.env, "PATH": f"{folder}:{cluster.env['PATH']}"}
    executor = DragonflyExecutor(backend=make_backend(command_env=env, options={"begin": "now+1hour"}), max=1)
    future = executor.submit(os.getpid)
    wait_for_squeue()
    began = time.monotonic()
    assert future.cancel()
    executor.shutdown()
    assert time.monotonic() - began < 5
    assert cluster.jobs() == []
    assert "may still wait or run" in caplog.text


def test_a_job_that_no_call_needs_any_more_is_cancelled(
    make_backend: MakeBackend, cluster: SlurmCluster, mailbox: Mailbox, gate: Gate
) -> None:
    """Its call ran on another runner. The runner that is up, and its call, go on."""
    blocker = cluster.submit("--cpus-per-task=3", "--wrap=sleep 1000")
    cluster.wait_until(lambda: cluster.state(blocker) == "RUNNING", "the start of the job that is in the way")
    with DragonflyExecutor(backend=make_backend(), max=2) as executor:
        first, second = (executor.submit(hold, mailbox.path, gate.path) for _ in range(2))
        mailbox.read()
        cluster.wait_until(lambda: executor.pool.stats().boots_queued == 1, "the runner in the queue")
        assert len(cluster.jobs()) == 3
        gate.open()
        wait([first])
        mailbox.read()
        cluster.wait_until(lambda: len(cluster.jobs()) == 2, "the end of the job in the queue")
        assert executor.pool.stats().boots_failed == 0
        gate.open()
        wait([second])
        cluster.run("scancel", blocker)


def test_a_job_waits_no_longer_than_queue_timeout(make_backend: MakeBackend, cluster: SlurmCluster) -> None:
    error = boot_error(make_backend(queue_timeout=1.5, options={"begin": "now+1hour"}))
    assert isinstance(error, BootTimeoutError)
    assert error.phase == "queue"
    assert "PENDING (BeginTime), expected to start at 20" in str(error)
    assert "did not start within 1.5 s (queue_timeout)" in str(error)
    assert cluster.jobs() == []


def test_a_job_that_a_person_has_to_release_fails_the_boot(make_backend: MakeBackend, cluster: SlurmCluster) -> None:
    """No other boot can end better."""
    error = boot_error(make_backend(options={"hold": True}))
    assert error.final
    assert "JobHeldUser" in str(error)
    assert "a user holds the job" in str(error)
    assert cluster.jobs() == []


def test_a_partition_that_does_not_exist(make_backend: MakeBackend) -> None:
    error = boot_error(make_backend(partition="nowhere"))
    assert error.final
    assert error.phase == "create"
    assert "sbatch failed: sbatch: error: invalid partition specified: nowhere" in str(error)


def test_a_machine_without_slurm(make_backend: MakeBackend, tmp_path: Path) -> None:
    error = boot_error(make_backend(command_env={"PATH": str(tmp_path)}))
    assert error.final
    assert "there is no program sbatch on this machine's PATH" in str(error)


def test_a_runner_that_does_not_start_leaves_its_log_in_the_error(
    make_backend: MakeBackend, cluster: SlurmCluster
) -> None:
    backend = make_backend(python="/nowhere/python")
    with DragonflyExecutor(backend=backend, max=1, max_boot_failures=1) as executor:
        error = executor.submit(os.getpid).exception(PATIENCE)
    assert isinstance(error, BootError)
    assert "ended as FAILED (NonZeroExitCode)" in str(error)
    assert "/nowhere/python: not found" in error.output
    assert cluster.jobs() == []


def test_a_lost_answer_of_sbatch_leaves_no_job(
    make_backend: MakeBackend, cluster: SlurmCluster, tmp_path: Path
) -> None:
    """The job was submitted, and the program that did it was killed before it said so."""
    program = tmp_path / "bin" / "sbatch"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPATH={cluster.env["PATH"]} sbatch "$@" >/dev/null\nkill -9 $$\n')
    program.chmod(0o755)
    path = f"{program.parent}:{cluster.env['PATH']}"
    error = boot_error(make_backend(command_env={**cluster.env, "PATH": path}, options={"begin": "now+1hour"}))
    assert "exit status -9" in str(error)
    assert cluster.jobs() == []


def test_nothing_that_others_see_holds_the_token(make_backend: MakeBackend, cluster: SlurmCluster) -> None:
    """Other users see a job's options, and the command lines of all processes."""
    secret = Parent.new("test", 1, "slurm")._replace(address="127.0.0.1:9", token="5ec2e7" * 8)
    backend = make_backend(options={"begin": "now+1hour"})
    node = backend.boot(request(parent=secret))
    shown = cluster.run("scontrol", "show", "job", cluster.jobs()[0]) + cluster.run("squeue", "-o", "%all")
    node.stop()
    assert '"dragonfly_pool":"test"' in shown
    assert secret.encode() not in shown
    assert "5ec2e7" not in shown
    assert cluster.jobs() == []


def test_the_log_goes_with_the_runner_unless_the_user_wants_it(
    make_backend: MakeBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for logs, kept in ((None, 0), (tmp_path / "mine", 1)):
        with DragonflyExecutor(backend=make_backend(logs=logs), max=1) as executor:
            executor.submit(os.getpid).result(PATIENCE)
        folder = logs or tmp_path / ".cache" / "dragonfly_executor" / "slurm"
        assert len(list(folder.glob("*.log"))) == kept


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"options": {"array": "1-3"}}, "sets the sbatch option --array itself"),
        ({"options": {"j": "x"}}, "no long option"),
        ({"options": {"constraint": "a\nb"}}, "printable"),
        ({"time": 0}, "positive"),
        ({"cpus_per_task": 0}, "cpus_per_task"),
        ({"port": -1}, "port"),
        ({"queue_timeout": -1}, "queue_timeout"),
    ],
)
def test_arguments_are_checked_where_they_are_given(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        SlurmBackend(**arguments)  # type: ignore[arg-type]
