"""Cluster objects of Dask, which are scaled as the pool wants: processes of this machine, and jobs of a real Slurm."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import DaskBackend, DragonflyExecutor, RequirementsError
from tests.support.dask_cluster import DaskCluster
from tests.support.helpers import PATIENCE, Gate, Mailbox
from tests.support.payloads import agent_pid, hold, pid
from tests.support.slurm_cluster import SlurmCluster, missing_programs, slurm_cluster

pytestmark = [
    pytest.mark.engine,
    pytest.mark.no_census(reason="a cluster object keeps threads and queues of multiprocessing in this process"),
    pytest.mark.filterwarnings("default"),
    pytest.mark.usefixtures("dask_here"),
]


@contextmanager
def local_cluster(**arguments: Any) -> Iterator[Any]:
    """A cluster of this machine, with its scheduler in this process."""
    from distributed import LocalCluster

    options = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", **arguments}
    with tempfile.TemporaryDirectory() as folder, LocalCluster(local_directory=folder, **options) as cluster:
        yield cluster


def wait_for_workers(cluster: Any, count: int) -> None:
    """Wait until the cluster has exactly this many workers."""
    from distributed import Client

    with Client(cluster, set_as_default=False) as client:
        waiting = DaskCluster(Path())  # its patience
        waiting.wait_until(lambda: len(client.nthreads()) == count, f"{count} workers")


def test_a_cluster_gets_a_worker_for_each_runner_and_loses_it_again(mailbox: Mailbox, gate: Gate) -> None:
    with local_cluster(n_workers=0) as cluster:
        with DragonflyExecutor(backend=DaskBackend(cluster, sync=None), max=2) as executor:
            futures = [executor.submit(hold, mailbox.path, gate.path) for _ in range(2)]
            assert len(set(mailbox.numbers(2))) == 2
            assert len(cluster.plan) == 2
            gate.open(2)
            wait(futures)
            executor.pool.resize(min=0, max=1)
            wait_for_workers(cluster, 1)
            assert executor.submit(pid).result(PATIENCE)
        wait_for_workers(cluster, 0)


def test_workers_that_the_cluster_had_are_used_and_stay(mailbox: Mailbox, gate: Gate) -> None:
    with local_cluster(n_workers=1) as cluster:
        with DragonflyExecutor(backend=DaskBackend(cluster, sync=None), max=2) as executor:
            futures = [executor.submit(hold, mailbox.path, gate.path) for _ in range(2)]
            mailbox.numbers(2)
            assert len(cluster.plan) == 2
            gate.open(2)
            wait(futures)
        wait_for_workers(cluster, 1)


def test_a_cluster_that_scales_itself_gets_a_worker_for_each_runner_within_its_bounds(
    mailbox: Mailbox, gate: Gate
) -> None:
    """Its minimum is raised for that, and is the user's again in the end. The third boot waits."""
    with local_cluster(n_workers=0) as cluster:
        adaptive = cluster.adapt(minimum=0, maximum=2, interval="100ms")
        with DragonflyExecutor(backend=DaskBackend(cluster, sync=None), max=3) as executor:
            futures = [executor.submit(hold, mailbox.path, gate.path) for _ in range(3)]
            assert len(set(mailbox.numbers(2))) == 2
            DaskCluster(Path()).wait_until(lambda: "has a runner" in " ".join(executor.pool.stats().progress), "a look")
            (text,) = executor.pool.stats().progress
            assert text.endswith("1 runner waits; the cluster scales itself, from 0 to 2 workers")
            gate.open(3)
            wait(futures)
        assert adaptive.minimum == 0


def test_a_scheduler_with_adaptive_scaling_starts_the_first_worker() -> None:
    """The backend has only its address. A task that waits in Dask shows that a worker is needed."""
    with local_cluster(n_workers=0) as cluster:
        cluster.adapt(minimum=0, maximum=1, interval="100ms")
        backend = DaskBackend(cluster.scheduler_address, sync=None)
        with DragonflyExecutor(backend=backend, max=1) as executor:
            assert executor.submit(pid).result(PATIENCE)


def test_what_no_worker_of_a_local_cluster_can_have_is_refused_at_submit() -> None:
    with (
        local_cluster(n_workers=0, resources={"GPU": 1}) as cluster,
        DragonflyExecutor(backend=DaskBackend(cluster, sync=None), max=1) as executor,
    ):
        with pytest.raises(RequirementsError, match=r"requires 2 GPUs.*the nearest has 1 CPU, 1 GPU"):
            executor.options(requires={"gpus": 2}).submit(pid)
        assert executor.options(requires={"gpus": 1}).submit(pid).result(PATIENCE)


def test_a_client_s_cluster_and_workers_that_are_threads_of_this_process() -> None:
    from distributed import Client

    with (
        local_cluster(n_workers=1, processes=False) as cluster,
        Client(cluster, set_as_default=False) as client,
        DragonflyExecutor(backend=DaskBackend(client, sync=None), max=1) as executor,
    ):
        assert executor.submit(agent_pid).result(PATIENCE)
        assert client.submit(pow, 2, 10).result() == 1024


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    if missing := missing_programs():
        pytest.skip(f"Slurm is not installed here: no {', '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="slurm") as folder, slurm_cluster(Path(folder)) as running:
        for name in ("PATH", "SLURM_CONF"):
            monkeypatch.setenv(name, running.env[name])
        yield running


def test_workers_of_dask_jobqueue_are_jobs_that_come_and_go_with_the_runners(
    slurm: SlurmCluster, tmp_path: Path, mailbox: Mailbox, gate: Gate
) -> None:
    from dask_jobqueue import SLURMCluster

    jobs = SLURMCluster(
        cores=1, memory="500MB", processes=1, walltime="00:10:00", job_cpu=1, job_extra_directives=["--chdir=/tmp"],
        log_directory=str(tmp_path), local_directory=str(tmp_path),
        scheduler_options={"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"},
        worker_extra_args=["--host", "127.0.0.1"],
    )  # fmt: skip
    with jobs as cluster:
        assert slurm.jobs() == []
        with DragonflyExecutor(backend=DaskBackend(cluster, sync=None), max=2) as executor:
            futures = [executor.submit(hold, mailbox.path, gate.path) for _ in range(2)]
            assert len(set(mailbox.numbers(2))) == 2
            assert len(slurm.jobs()) == 2
            gate.open(2)
            wait(futures)
        slurm.wait_until(lambda: slurm.jobs() == [], "the end of the jobs")
