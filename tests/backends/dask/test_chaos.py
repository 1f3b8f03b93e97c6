"""The parent is killed, and so are Dask's scheduler and workers: calls go on where they can, and no process is left."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import psutil
import pytest

from dragonfly_executor import DaskBackend, DragonflyExecutor, RunnerLostError
from dragonfly_executor.backends.dask.runner_tasks import CLOSE_GRACE
from tests.support.dask_cluster import DaskCluster, dask_cluster
from tests.support.engine_tasks import WaitingClock, begun, boot_request, end_of, program, secret_parent
from tests.support.helpers import PATIENCE, Gate, Mailbox, all_ended, error_of, watching
from tests.support.payloads import agent_pid, hold, pid

pytestmark = pytest.mark.engine


@pytest.fixture
def cluster(dask_here: None) -> Iterator[DaskCluster]:
    """A cluster of the test's own, whose processes it may kill, with one worker."""
    with tempfile.TemporaryDirectory(prefix="dask") as folder, dask_cluster(Path(folder), "w1") as running:
        yield running


def executor_on(cluster: DaskCluster, **options: object) -> DragonflyExecutor:
    return DragonflyExecutor(backend=DaskBackend(cluster.address, sync=None), max=1, **options)  # type: ignore[arg-type]


def tasks_of(cluster: DaskCluster) -> int:
    """Return how many tasks the scheduler has."""
    from distributed import Client

    with Client(cluster.address, set_as_default=False) as client:
        found: int = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
        return found


def test_a_killed_parent_leaves_no_runner(cluster: DaskCluster, mailbox: Mailbox, gate: Gate) -> None:
    """Its call's process and its agent end, and Dask has no task of it any more."""
    with program("dask", cluster, mailbox, gate) as parent:
        slot = int(mailbox.read())
        with watching(slot, psutil.Process(slot).ppid()) as processes:
            parent.kill()
            assert all_ended(processes)
    cluster.wait_until(lambda: tasks_of(cluster) == 0, "the end of the task")


def test_a_parent_that_is_killed_while_it_waits_for_a_worker_leaves_no_task(
    cluster: DaskCluster, mailbox: Mailbox, gate: Gate
) -> None:
    """No worker that comes later gets its runner."""
    cluster.kill_worker("w1")
    with program("dask", cluster, mailbox, gate) as parent:
        cluster.wait_until(lambda: tasks_of(cluster) == 1, "the task that waits")
        parent.kill()
        parent.wait()
    cluster.wait_until(lambda: tasks_of(cluster) == 0, "the end of the task")
    cluster.start_worker("w2")
    assert cluster.agents() == []


def test_a_parent_that_is_killed_while_its_runner_starts_leaves_no_runner(
    cluster: DaskCluster, mailbox: Mailbox, gate: Gate
) -> None:
    with program("dask", cluster, mailbox, gate) as parent:
        cluster.wait_until(cluster.agents, "the agent")
        (agent,) = cluster.agents()
        with watching(agent.pid) as processes:
            parent.kill()
            assert all_ended(processes, PATIENCE)


def test_a_parent_that_is_killed_while_boots_wait_behind_a_full_cluster_leaves_no_task(
    cluster: DaskCluster, mailbox: Mailbox, gate: Gate
) -> None:
    """Its runner ends, and the worker gets none of those that waited."""
    with program("dask", cluster, mailbox, gate, calls=3) as parent:
        slot = int(mailbox.read())
        with watching(slot, psutil.Process(slot).ppid()) as processes:
            parent.kill()
            parent.wait()
            assert all_ended(processes)
    cluster.wait_until(lambda: tasks_of(cluster) == 0, "the end of the task")
    assert cluster.agents() == []


def test_a_boot_whose_worker_is_killed_before_it_began_there_waits_for_another(cluster: DaskCluster) -> None:
    """Its task waits on the worker for a resource that a task of someone else uses there."""
    from distributed import Client, Event

    clock = WaitingClock()
    cluster.start_worker("gpu", "--resources", "GPU=1")
    with Client(cluster.address, set_as_default=False) as client:
        event, has_begun = Event("in use", client=client), Event("begun", client=client)
        other = client.submit(lambda: (Event("begun").set(), Event("in use").wait()), resources={"GPU": 1})
        has_begun.wait()
        node = DaskBackend(cluster.address, sync=None, resources={"GPU": 1}).boot(boot_request(clock=clock))
        cluster.wait_until(lambda: "was chosen" in node.progress(), "the task")
        cluster.kill_worker("gpu")
        event.set()  # for the other task, which Dask would run again
        del other
        cluster.wait_until(lambda: "has GPU=1" in node.progress(), "the queue")
        assert not clock.was_started.is_set()
        cluster.start_worker("gpu2", "--resources", "GPU=1")
        assert clock.was_started.wait(PATIENCE)
        node.stop()


def test_a_scheduler_that_dies_while_boots_wait_fails_them_and_a_new_one_gets_their_runners(
    cluster: DaskCluster,
) -> None:
    """The connection is not used any more, as a new scheduler knows nothing of its tasks."""
    cluster.kill_worker("w1")
    port = int(cluster.address.rpartition(":")[2])
    events: SimpleQueue[Mapping[str, Any]] = SimpleQueue()
    with DragonflyExecutor(
        backend=DaskBackend(cluster.address, sync=None), max=2, max_boot_failures=100, on_event=events.put
    ) as executor:
        futures = [executor.submit(pid) for _ in range(2)]
        cluster.wait_until(lambda: len(executor.pool.stats().progress) == 2, "both in the queue")
        cluster.kill_scheduler()
        while (event := events.get(timeout=PATIENCE))["event"] != "boot failed":
            continue
        assert "Dask scheduler" in event["text"]
        cluster.start_scheduler(port)
        cluster.start_worker("w2")
        assert all(future.result(60) for future in futures)


def test_a_killed_worker_takes_its_runner_with_it(cluster: DaskCluster, mailbox: Mailbox, gate: Gate) -> None:
    """The call is lost and says so. Calls that follow run on another worker, for which the boot waits."""
    with executor_on(cluster) as executor:
        future = executor.submit(hold, mailbox.path, gate.path)
        slot = int(mailbox.read())
        with watching(slot, psutil.Process(slot).ppid()) as processes:
            cluster.kill_worker("w1")
            error = error_of(future)
            assert all_ended(processes)
        assert isinstance(error, RunnerLostError)
        assert "has left the cluster without notice" in str(error)
        later = executor.submit(pid)
        cluster.start_worker("w2")
        assert later.result(PATIENCE)


def test_a_killed_worker_takes_a_runner_with_it_that_was_not_admitted_yet(cluster: DaskCluster) -> None:
    """Its agent still looks for its parent, which does not answer."""
    node = begun(DaskBackend(cluster.address, sync=None), parent=secret_parent())
    cluster.wait_until(cluster.agents, "the agent")
    with watching(*(agent.pid for agent in cluster.agents())) as agents:
        cluster.kill_worker("w1")
        assert all_ended(agents)
    assert "has left the cluster without notice" in str(end_of(node))
    node.stop()


def test_a_worker_that_its_nanny_restarts_gets_a_runner_again(
    cluster: DaskCluster, mailbox: Mailbox, gate: Gate
) -> None:
    cluster.kill_worker("w1")
    cluster.start_worker("w2", nanny=True)
    with executor_on(cluster) as executor:
        first = executor.submit(agent_pid).result(PATIENCE)
        future = executor.submit(hold, mailbox.path, gate.path)
        mailbox.read()
        worker = psutil.Process(first).parent()
        assert worker is not None
        with watching(first) as agent:
            worker.kill()
            assert isinstance(error_of(future), RunnerLostError)
            assert all_ended(agent)
        assert executor.submit(agent_pid).result(PATIENCE) != first


def test_a_worker_that_is_retired_lets_its_calls_finish(cluster: DaskCluster, mailbox: Mailbox, gate: Gate) -> None:
    """Dask closes the worker in order: the runner takes no more calls, and finishes the ones that it has."""
    from distributed import Client

    with executor_on(cluster) as executor, Client(cluster.address, set_as_default=False) as client:
        future = executor.submit(hold, mailbox.path, gate.path, "done")
        slot = int(mailbox.read())
        with watching(slot) as slots:
            client.retire_workers(names=["w1"], close_workers=True)
            gate.open()
            assert future.result(PATIENCE) == "done"
            assert all_ended(slots)
        cluster.start_worker("w2")
        assert executor.submit(pid).result(PATIENCE)


def test_a_call_that_outlives_a_retired_worker_is_told_why(cluster: DaskCluster, mailbox: Mailbox, gate: Gate) -> None:
    """The pool knows the end at once, and boots a replacement. Its call has until then."""
    from distributed import Client

    node = begun(DaskBackend(cluster.address, sync=None), clock=(clock := WaitingClock()), parent=secret_parent())
    with Client(cluster.address, set_as_default=False) as client:
        client.retire_workers(names=["w1"], close_workers=True)
    seconds, ended_by = clock.endings.get(timeout=PATIENCE)
    assert seconds == CLOSE_GRACE
    assert ended_by.endswith("was retired")
    assert "was retired" in str(end_of(node))
    assert "was retired" in node.explain_loss()
    node.stop()


def test_a_worker_s_lifetime_is_known(cluster: DaskCluster) -> None:
    """``dask worker --lifetime``, which dask-jobqueue advises for jobs with a time limit."""
    cluster.start_worker("short", "--lifetime", "1h")
    node = begun(DaskBackend(cluster.address, sync=None, workers="short"), clock=(clock := WaitingClock()))
    seconds, ended_by = clock.endings.get(timeout=PATIENCE)
    assert 3600 - 60 < seconds - CLOSE_GRACE < 3600
    assert "has reached its lifetime" in ended_by
    node.stop()


def eat_memory() -> None:
    """Have this process use more memory than its nanny allows, until it is killed."""
    held = []
    while True:
        held.append(bytearray(b"1" * 2**24))


def test_calls_learn_that_a_nanny_restarted_their_worker_for_its_memory(
    cluster: DaskCluster, mailbox: Mailbox, gate: Gate
) -> None:
    """The memory is that of the worker's own process, so it was used by a task of Dask."""
    from distributed import Client

    cluster.kill_worker("w1")
    cluster.start_worker("w2", "--memory-limit", "300MB", nanny=True)
    with executor_on(cluster) as executor, Client(cluster.address, set_as_default=False) as client:
        future = executor.submit(hold, mailbox.path, gate.path)
        mailbox.read()
        eaten = client.submit(eat_memory, pure=False)
        error = error_of(future)
        del eaten
        assert isinstance(error, RunnerLostError)
        assert "was restarted by its nanny: its own process used" in str(error)


def test_a_killed_scheduler_loses_the_runners_and_a_new_one_gets_new_ones(
    cluster: DaskCluster, mailbox: Mailbox, gate: Gate
) -> None:
    """Dask's workers end without their scheduler. Calls have some seconds to finish before that."""
    port = int(cluster.address.rpartition(":")[2])
    with executor_on(cluster, boot_timeout=60) as executor:
        future = executor.submit(hold, mailbox.path, gate.path, "done")
        with watching(int(mailbox.read())) as slots:
            cluster.kill_scheduler()
            gate.open()
            assert future.result(PATIENCE) == "done"
            assert all_ended(slots, PATIENCE)
        later = executor.submit(os.getpid)
        cluster.start_scheduler(port)
        cluster.start_worker("w2")
        assert later.result(PATIENCE)
