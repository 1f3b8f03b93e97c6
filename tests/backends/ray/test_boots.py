"""Resources that are missing, environments that fail, options that Ray refuses: what a boot makes of each."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path
from threading import Lock

import pytest

from dragonfly_executor import BootTimeoutError, DragonflyExecutor, RayBackend
from tests.support.engine_tasks import SECRET, WaitingClock, begun, boot_error, boot_request, secret_parent
from tests.support.helpers import PATIENCE, Gate, Mailbox
from tests.support.payloads import agent_pid, hold
from tests.support.ray_cluster import RayCluster

pytestmark = pytest.mark.engine

MakeBackend = Callable[..., RayBackend]


def variable(name: str) -> str | None:
    return os.environ.get(name)


def test_an_actor_that_waits_for_resources_is_not_late(
    make_backend: MakeBackend, cluster: RayCluster, mailbox: Mailbox, gate: Gate
) -> None:
    """Two actors fill the cluster. The third gets its runner when one of them has ended."""
    clock = WaitingClock()
    backend = make_backend()
    with DragonflyExecutor(backend=make_backend(num_cpus=2), max=1) as executor:
        future = executor.submit(hold, mailbox.path, gate.path)
        mailbox.read()
        node = backend.boot(boot_request(clock=clock))
        assert node.is_queued
        cluster.wait_until(lambda: "actor waits" in node.progress(), "a look at the cluster")
        assert node.progress() == "1 of 1 Ray nodes has CPU=1, and other work uses it; 1 actor waits"
        assert not clock.was_started.is_set()
        gate.open()
        wait([future])
    assert clock.was_started.wait(PATIENCE)
    assert not node.is_queued
    node.stop()


def test_cpus_are_slots(make_backend: MakeBackend, mailbox: Mailbox, gate: Gate) -> None:
    with DragonflyExecutor(backend=make_backend(num_cpus=2), max=1) as executor:
        futures = [executor.submit(hold, mailbox.path, gate.path) for _ in range(2)]
        assert len(set(mailbox.numbers(2))) == 2
        assert executor.pool.stats().runners[0].slots == 2
        gate.open(2)
        wait(futures)


def test_an_actor_waits_no_longer_than_queue_timeout(make_backend: MakeBackend) -> None:
    error = boot_error(make_backend(queue_timeout=0.5, resources={"unobtainium": 1}))
    assert isinstance(error, BootTimeoutError)
    assert "did not start within 0.5 s (queue_timeout): see `ray status`" in str(error)


def test_the_runtime_environment_reaches_the_calls(make_backend: MakeBackend) -> None:
    backend = make_backend(runtime_env={"env_vars": {"FRUIT": "apple"}}, env={"NUT": "hazel"})
    with DragonflyExecutor(backend=backend, max=1) as executor:
        assert executor.submit(variable, "FRUIT").result(PATIENCE) == "apple"
        assert executor.submit(variable, "NUT").result(PATIENCE) == "hazel"


def test_an_option_that_ray_refuses_fails_the_boot_for_good(make_backend: MakeBackend) -> None:
    error = boot_error(make_backend(options={"no_such_option": 1}))
    assert error.final
    assert "Ray refuses the runner's actor" in str(error)
    assert "no_such_option" in str(error)


def test_a_node_without_this_package_fails_the_boot_for_good(make_backend: MakeBackend, tmp_path: Path) -> None:
    hidden = {"env_vars": {"PYTHONPATH": str(tmp_path)}}
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['dragonfly_executor'] = None\n")
    error = boot_error(make_backend(runtime_env=hidden))
    assert error.final
    assert "cannot import dragonfly_executor" in str(error)


def test_nothing_that_ray_logs_holds_the_token(make_backend: MakeBackend, cluster: RayCluster) -> None:
    secret = secret_parent()
    node = begun(make_backend(), parent=secret)
    shown = repr(node)
    node.stop()
    error = boot_error(make_backend(python="/nowhere"), parent=secret)
    assert error.phase == "queue"
    shown += f"{error!r} {error}"
    logs = [path for ending in ("log", "out", "err") for path in cluster.folder.rglob(f"*.{ending}")]
    assert logs
    shown += "".join(path.read_text(errors="replace") for path in logs)
    assert SECRET not in shown
    assert secret.encode() not in shown


@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"port": -1}, ValueError, "port"),
        ({"queue_timeout": -1}, ValueError, "queue_timeout"),
        ({"options": {"lifetime": "detached"}}, ValueError, "sets the actor option 'lifetime' itself"),
    ],
)
def test_arguments_are_checked_where_they_are_given(
    arguments: dict[str, object], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        RayBackend("127.0.0.1:1", **arguments)  # type: ignore[arg-type]


def test_an_actor_asks_for_what_calls_require(make_backend: MakeBackend, cluster: RayCluster) -> None:
    """Its runner has that, and a call that requires nothing shares it."""
    with DragonflyExecutor(backend=make_backend(), max=1) as executor:
        large = executor.options(requires={"cpus": 2, "memory": "100MiB"})
        first = large.submit(agent_pid).result(60)
        (runner,) = executor.pool.stats().runners
        assert runner.slots == 2
        assert runner.capacity is not None
        assert (runner.capacity.cpus, runner.capacity.memory) == (2, 100 * 2**20)
        assert executor.submit(agent_pid).result(PATIENCE) == first


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ({"gpus": 1}, "none of the 1 Ray nodes has CPU=1, GPU=1; 1 actor waits"),
        ({"label": "eu"}, "none of the 1 Ray nodes has CPU=1, eu=0.001; 1 actor waits"),
        ({"label": "region=eu"}, "none of the 1 Ray nodes has CPU=1, the label region=eu; 1 actor waits"),
    ],
)
def test_what_no_node_has_is_named(
    make_backend: MakeBackend, cluster: RayCluster, wanted: dict[str, object], text: str
) -> None:
    """A node that has it may come, so the actor waits. It goes when its call is cancelled."""
    with DragonflyExecutor(backend=make_backend(), max=1) as executor:
        future = executor.options(requires=wanted).submit(agent_pid)
        stats = executor.pool.stats
        cluster.wait_until(lambda: [*stats().progress] == [text], text)
        assert future.cancel()
        cluster.wait_until(lambda: stats().runners_booting == 0, "the end of the boot")


def test_options_that_cannot_be_pickled_fail_the_boot_for_good(make_backend: MakeBackend) -> None:
    error = boot_error(make_backend(scheduling_strategy=Lock()))
    assert error.final
    assert error.phase == "create"
    assert "the options of RayBackend cannot be pickled: TypeError" in str(error)
