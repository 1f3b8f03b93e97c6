"""The parent is killed, and so are Ray's GCS, raylet and workers: no process is left, and a new cluster is used."""

from __future__ import annotations

from collections.abc import Mapping
from queue import SimpleQueue
from typing import Any

import psutil
import pytest

from dragonfly_executor import DragonflyExecutor, RayBackend, RunnerLostError
from tests.support.engine_tasks import program
from tests.support.helpers import PATIENCE, Gate, Mailbox, all_ended, error_of, watching
from tests.support.payloads import agent_pid, hold
from tests.support.ray_cluster import RayCluster, ray_cluster

pytestmark = pytest.mark.engine


def driver_of(parent: int) -> psutil.Process | None:
    """Return the driver below a process, once it is there."""
    for child in psutil.Process(parent).children(recursive=True):
        if "dragonfly_executor.backends.ray.driver" in child.cmdline():
            return child
    return None


def test_a_killed_parent_leaves_no_runner_and_no_driver(cluster: RayCluster, mailbox: Mailbox, gate: Gate) -> None:
    with program("ray", cluster, mailbox, gate) as parent:
        slot = int(mailbox.read())
        driver = driver_of(parent.pid)
        assert driver is not None
        with watching(slot, psutil.Process(slot).ppid(), driver.pid) as processes:
            parent.kill()
            assert all_ended(processes)


def test_a_parent_that_is_killed_while_its_actor_waits_leaves_no_driver(
    cluster: RayCluster, mailbox: Mailbox, gate: Gate
) -> None:
    """Ray drops the actors of a driver that has ended."""
    with program("ray", cluster, mailbox, gate, "unobtainium") as parent:
        cluster.wait_until(lambda: driver_of(parent.pid), "the driver")
        driver = driver_of(parent.pid)
        assert driver is not None
        with watching(driver.pid) as processes:
            parent.kill()
            assert all_ended(processes)


def test_a_parent_that_is_killed_while_actors_wait_behind_a_full_cluster_leaves_no_actor(
    cluster: RayCluster, mailbox: Mailbox, gate: Gate
) -> None:
    """The cluster has two CPUs, so the third actor waits. None gets a runner when the other two have gone."""
    with program("ray", cluster, mailbox, gate, calls=3) as parent:
        slots = mailbox.numbers(2)
        driver = driver_of(parent.pid)
        assert driver is not None
        with watching(*slots, driver.pid) as processes:
            parent.kill()
            assert all_ended(processes)
    with DragonflyExecutor(backend=RayBackend(cluster.address, sync=None, num_cpus=2), max=1) as executor:
        agent = executor.submit(agent_pid).result(60)
        assert {process.pid for process in cluster.agents() if "agent" in process.name()} == {agent}


def test_a_cluster_that_dies_while_an_actor_waits_fails_its_boot_and_the_next_gets_its_runner(
    ray_here: None,
) -> None:
    events: SimpleQueue[Mapping[str, Any]] = SimpleQueue()
    with (
        ray_cluster(1) as doomed,
        DragonflyExecutor(
            backend=RayBackend(doomed.address, sync=None, num_cpus=2),
            max=1,
            max_boot_failures=100,
            on_event=events.put,
        ) as executor,
    ):
        future = executor.submit(agent_pid)
        doomed.wait_until(lambda: "actor waits" in " ".join(executor.pool.stats().progress), "the queue")
        doomed.kill("gcs_server")
        while (event := events.get(timeout=60))["event"] != "boot failed":
            continue
        assert "the connection to the Ray cluster has ended" in event["text"]
        doomed.stop()
        doomed.cpus = 2
        doomed.start()
        assert future.result(60)


def test_a_killed_worker_of_ray_takes_its_runner_with_it(cluster: RayCluster, mailbox: Mailbox, gate: Gate) -> None:
    """The call is lost and says so; the next runs on another runner."""
    with DragonflyExecutor(backend=RayBackend(cluster.address, sync=None), max=1) as executor:
        agent = executor.submit(agent_pid).result(PATIENCE)
        future = executor.submit(hold, mailbox.path, gate.path)
        worker = psutil.Process(agent).parent()
        assert worker is not None
        with watching(int(mailbox.read()), agent) as processes:
            worker.kill()
            error = error_of(future)
            assert isinstance(error, RunnerLostError)
            assert "did not run the runner's actor: " in str(error)
            assert all_ended(processes)
        assert executor.submit(agent_pid).result(PATIENCE) != agent


def test_a_node_that_is_drained_ends_its_runner_before_the_deadline(
    ray_here: None, mailbox: Mailbox, gate: Gate
) -> None:
    """Ray announces a preemption so, and does nothing itself at the deadline. The call is told why it was lost."""
    with (
        ray_cluster(1) as cluster,
        DragonflyExecutor(backend=RayBackend(cluster.address, sync=None), max=1) as executor,
    ):
        future = executor.submit(hold, mailbox.path, gate.path)
        with watching(int(mailbox.read())) as slots:
            cluster.drain(8)
            error = error_of(future)
            assert all_ended(slots)
        assert isinstance(error, RunnerLostError)
        assert "Ray drained Ray node" in str(error)


def test_a_killed_driver_loses_the_runners_and_another_is_started(
    cluster: RayCluster, mailbox: Mailbox, gate: Gate
) -> None:
    """Ray ends the actors of a driver that has ended."""
    with DragonflyExecutor(backend=RayBackend(cluster.address, sync=None), max=1) as executor:
        future = executor.submit(hold, mailbox.path, gate.path)
        with watching(int(mailbox.read())) as slots:
            driver = driver_of(psutil.Process().pid)
            assert driver is not None
            driver.kill()
            assert isinstance(error_of(future), RunnerLostError)
            assert all_ended(slots)
        assert executor.submit(agent_pid).result(PATIENCE)


@pytest.mark.parametrize("daemon", ["raylet", "gcs_server"])
def test_a_cluster_that_dies_loses_its_runners_and_the_next_gets_new_ones(
    ray_here: None, daemon: str, mailbox: Mailbox, gate: Gate
) -> None:
    """The user's program is not the driver, which Ray ends with its cluster."""
    with (
        ray_cluster(1) as doomed,
        DragonflyExecutor(backend=RayBackend(doomed.address, sync=None), max=1) as executor,
    ):
        future = executor.submit(hold, mailbox.path, gate.path)
        with watching(int(mailbox.read())) as slots:
            doomed.kill(daemon)
            assert isinstance(error_of(future), RunnerLostError)
            assert all_ended(slots)
        future = executor.submit(agent_pid)
        doomed.stop()
        doomed.start()
        assert future.result(60)
