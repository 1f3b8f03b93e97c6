"""Workers that are missing, busy or unsuitable: what a boot makes of each."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path

import pytest

from dragonfly_executor import BootTimeoutError, DaskBackend, DragonflyExecutor
from dragonfly_executor.core.capacity import Requirements
from tests.support.dask_cluster import DaskCluster
from tests.support.engine_tasks import SECRET, WaitingClock, begun, boot_error, boot_request, secret_parent
from tests.support.helpers import PATIENCE, Gate, Mailbox
from tests.support.payloads import agent_pid, hold

pytestmark = pytest.mark.engine

MakeBackend = Callable[..., DaskBackend]


def test_each_worker_gets_one_runner(make_backend: MakeBackend, mailbox: Mailbox, gate: Gate) -> None:
    """A third boot waits, although Dask's workers have room for any number of seceded tasks."""
    with DragonflyExecutor(backend=make_backend(), max=3) as executor:
        futures = [executor.submit(hold, mailbox.path, gate.path) for _ in range(3)]
        first = mailbox.numbers(2)
        assert len(set(first)) == 2
        assert (executor.pool.stats().runners_up, executor.pool.stats().runners_booting) == (2, 1)
        gate.open(3)
        wait(futures)


def test_a_worker_s_threads_are_the_slots_unless_the_user_says_otherwise(
    make_backend: MakeBackend, cluster: DaskCluster, mailbox: Mailbox, gate: Gate
) -> None:
    cluster.start_worker("wide", "--nthreads", "3")
    try:
        for options, slots in (({}, 3), ({"max_concurrency": 2}, 2)):
            with DragonflyExecutor(backend=make_backend(workers="wide"), max=1, **options) as executor:
                executor.submit(agent_pid).result(PATIENCE)
                assert executor.pool.stats().runners[0].slots == slots
    finally:
        cluster.kill_worker("wide")


def test_a_boot_that_waits_for_a_worker_is_not_late(make_backend: MakeBackend, cluster: DaskCluster) -> None:
    """`boot_timeout` stops while the boot waits, and counts from when a worker has begun."""
    clock = WaitingClock()
    node = make_backend(resources={"SPECIAL": 1}).boot(boot_request(clock=clock, timeout=0.5))
    assert node.is_queued
    assert clock.was_queued.is_set()
    cluster.wait_until(lambda: "SPECIAL=1" in node.progress(), "a look at the workers")
    text = "none of the 2 Dask workers has SPECIAL=1 (they declare no resources); 1 runner waits"
    assert node.progress() == text
    assert not clock.was_started.is_set()
    cluster.start_worker("special", "--resources", "SPECIAL=1")
    try:
        assert clock.was_started.wait(PATIENCE)
        assert not node.is_queued
        node.stop()
    finally:
        cluster.kill_worker("special")


def test_a_boot_waits_no_longer_than_queue_timeout(make_backend: MakeBackend) -> None:
    error = boot_error(make_backend(queue_timeout=0.5, workers=["nobody"]))
    assert isinstance(error, BootTimeoutError)
    assert error.phase == "queue"
    assert "none of the 2 Dask workers has one of the names nobody" in str(error)
    assert "did not start within 0.5 s (queue_timeout): start workers that fit workers=" in str(error)


def test_a_worker_without_this_package(make_backend: MakeBackend, cluster: DaskCluster, tmp_path: Path) -> None:
    """The scheduler has it neither, and needs none."""
    hook = tmp_path / "hides.py"
    hook.write_text("import sys\ndef dask_setup(worker):\n    sys.modules['dragonfly_executor'] = None\n")
    cluster.start_worker("bare", "--preload", str(hook))
    try:
        error = boot_error(make_backend(workers="bare"))
    finally:
        cluster.kill_worker("bare")
    assert error.final
    assert "cannot import dragonfly_executor" in str(error)
    assert "install it for the workers' Python" in str(error)


def test_nothing_that_dask_logs_or_shows_holds_the_token(make_backend: MakeBackend, cluster: DaskCluster) -> None:
    """Dask logs the arguments of a task that fails, so one of the two boots fails."""
    secret = secret_parent()
    node = begun(make_backend(), parent=secret)
    shown = repr(node)
    node.stop()
    error = boot_error(make_backend(python="/nowhere"), parent=secret)
    assert error.phase == "queue"
    logs = [log.read_text() for log in cluster.folder.glob("*.log")]
    assert logs
    shown += f"{error!r} {error} {''.join(logs)}"
    assert SECRET not in shown
    assert secret.encode() not in shown


def test_a_scheduler_that_is_not_there(dask_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragonfly_executor.backends.dask.scheduler.CONNECT_TIMEOUT", 0.5)
    error = boot_error(DaskBackend("127.0.0.1:9", sync=None))
    assert error.phase == "create"
    assert "cannot connect to the Dask scheduler at tcp://127.0.0.1:9" in str(error)


@pytest.mark.usefixtures("dask_here")
@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"cluster": ""}, ValueError, "not connected"),
        ({"cluster": 7}, TypeError, "an address, a Client or a cluster"),
        ({"port": -1}, ValueError, "port"),
        ({"queue_timeout": -1}, ValueError, "queue_timeout"),
        ({"resources": {"GPU": 0}}, ValueError, "'GPU' must be a positive number"),
    ],
)
def test_arguments_are_checked_where_they_are_given(
    arguments: dict[str, object], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        DaskBackend(**{"cluster": "127.0.0.1:1", **arguments})


def test_waiting_boots_end_when_no_call_needs_them(
    make_backend: MakeBackend, cluster: DaskCluster, mailbox: Mailbox, gate: Gate
) -> None:
    """Both workers have a runner. The boots that wait for a third go once their calls are cancelled."""
    with DragonflyExecutor(backend=make_backend(), max=4) as executor:
        futures = [executor.submit(hold, mailbox.path, gate.path) for _ in range(4)]
        mailbox.numbers(2)
        stats = executor.pool.stats
        text = "each of the 2 Dask workers that fit has a runner; 2 runners wait"
        cluster.wait_until(lambda: [*stats().progress] == [text] * 2, "both in the queue")
        assert [future.cancel() for future in futures if not future.running()] == [True, True]
        cluster.wait_until(lambda: stats().runners_booting == 0, "the end of the boots")
        assert stats().runners_up == 2
        gate.open(2)
        wait(futures)


def test_a_worker_whose_resources_are_in_use_is_waited_for(make_backend: MakeBackend, cluster: DaskCluster) -> None:
    """Dask keeps the task on that worker until a task of someone else has ended there."""
    from distributed import Client, Event

    clock = WaitingClock()
    cluster.start_worker("gpu", "--resources", "GPU=1")
    try:
        with Client(cluster.address, set_as_default=False) as client:
            event, begun_there = Event("in use", client=client), Event("begun", client=client)
            other = client.submit(lambda: (Event("begun").set(), Event("in use").wait()), resources={"GPU": 1})
            begun_there.wait()
            node = make_backend().boot(boot_request(clock=clock, requires=Requirements(gpus=1)))
            cluster.wait_until(lambda: "was chosen" in node.progress(), "the task")
            assert node.progress().endswith("was chosen, and has not begun the task")
            event.set()
            other.result()
            assert clock.was_started.wait(PATIENCE)
            node.stop()
    finally:
        cluster.kill_worker("gpu")


def test_a_call_runs_where_dask_s_workers_declare_what_it_requires(
    make_backend: MakeBackend, cluster: DaskCluster
) -> None:
    """Threads are CPUs, the resource GPU is GPUs, other resources are labels. A call that requires nothing shares."""
    cluster.start_worker("big", "--nthreads", "2", "--resources", "GPU=2 eu=1")
    try:
        with DragonflyExecutor(backend=make_backend(), max=1) as executor:
            wanted = {"cpus": 2, "gpus": 1, "label": "eu"}
            first = executor.options(requires=wanted).submit(agent_pid).result(PATIENCE)
            assert first in {agent.pid for agent in cluster.agents()}
            (runner,) = executor.pool.stats().runners
            assert runner.slots == 2
            assert runner.capacity is not None
            assert (runner.capacity.cpus, runner.capacity.gpus) == (2, 1)
            assert set(runner.capacity.labels) == {"eu"}
            assert executor.submit(agent_pid).result(PATIENCE) == first
            assert executor.options(requires={"label": "eu"}).submit(agent_pid).result(PATIENCE) == first
    finally:
        cluster.kill_worker("big")


def test_what_no_worker_declares_is_named(make_backend: MakeBackend) -> None:
    """Another worker may come, so the boot waits, for `queue_timeout` at most."""
    backend = make_backend(queue_timeout=1)
    with DragonflyExecutor(backend=backend, max=1, max_boot_failures=1) as executor:
        wanted = {"cpus": 3, "gpus": 1, "label": "eu"}
        error = executor.options(requires=wanted).submit(agent_pid).exception(PATIENCE)
    assert isinstance(error, BootTimeoutError)
    text = "none of the 2 Dask workers has GPU=1, eu (a label), 3 threads (they declare no resources)"
    assert text in str(error)


def test_annotations_that_dask_refuses_fail_the_boot_for_good(make_backend: MakeBackend) -> None:
    error = boot_error(make_backend(annotations={"priority": "high"}))
    assert error.final
    assert "Dask refuses the runner's task" in str(error)


def test_a_worker_and_its_parent_count_the_same_time_for_a_worker_that_closes(dask_here: None) -> None:
    from dragonfly_executor.backends.dask import runner_tasks, worker

    assert runner_tasks.CLOSE_GRACE == worker.CLOSE_GRACE
