"""Containers for calls that require something."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from dragonfly_executor import BootError, DragonflyExecutor, Parent, RequirementsError
from dragonfly_executor.backends.base import BootRequest
from dragonfly_executor.backends.docker.backend import DockerBackend
from dragonfly_executor.core.capacity import Capacity, Requirements
from tests.support.fake_docker import FakeDocker
from tests.support.helpers import PATIENCE

pytestmark = pytest.mark.slow

GIB = 2**30
MakeBackend = Callable[..., DockerBackend]
NOWHERE = Parent.new("pool", 1, "docker")._replace(address="127.0.0.1:1", fingerprint="00" * 32, token="00" * 32)


def boot(docker: FakeDocker, backend: DockerBackend, **required: Any) -> tuple[dict[str, Any], Any]:
    """Boot for these requirements. Return what limits the container, and the node after its end."""
    node = backend.boot(BootRequest(1, NOWHERE, 5, requires=Requirements(**required) if required else None))
    (container,) = docker.containers.values()
    node.stop()
    return container.config["HostConfig"], node


def test_a_container_is_larger_for_calls_that_require_more(docker: FakeDocker, make_backend: MakeBackend) -> None:
    backend = make_backend(cpus=2, memory="2g", labels={"eu"})
    own, node = boot(docker, backend)
    assert (own["NanoCpus"], own["Memory"], "DeviceRequests" in own) == (2 * 10**9, 2 * GIB, False)
    assert node.capacity == Capacity(2.0, 0, 2 * GIB, frozenset({"eu"}))
    more, node = boot(docker, backend, cpus=3.5, memory=GIB, gpus=2, labels=frozenset({"eu"}))
    assert (more["NanoCpus"], more["Memory"]) == (3_500_000_000, 2 * GIB), "the backend's own memory is enough"
    assert more["DeviceRequests"] == [{"Driver": "", "Count": 2, "Capabilities": [["gpu"]]}]
    assert node.capacity == Capacity(3.5, 2, 2 * GIB, frozenset({"eu"}))
    assert node.default_slots == 3


def test_what_is_not_limited_stays_so(docker: FakeDocker, make_backend: MakeBackend) -> None:
    """Then the agent finds out what the container has."""
    config, node = boot(docker, make_backend(), cpus=64, memory=GIB)
    assert not {"NanoCpus", "Memory", "DeviceRequests"} & set(config)
    assert node.capacity is None
    assert node.default_slots is None


def test_the_calls_run_in_such_a_container(docker: FakeDocker, make_backend: MakeBackend) -> None:
    with DragonflyExecutor(backend=make_backend(cpus=1, memory="1g"), max=1) as executor:
        assert executor.options(requires={"cpus": 2, "memory": "3GiB"}).submit(os.getpid).result(PATIENCE) > 0
        (container,) = docker.containers.values()
        assert container.config["HostConfig"]["NanoCpus"] == 2 * 10**9
        assert container.config["HostConfig"]["Memory"] == 3 * GIB
        (runner,) = executor.pool.stats().runners
        assert runner.capacity is not None
        assert (runner.capacity.cpus, runner.capacity.memory) == (2.0, 3 * GIB)
        assert runner.slots == 2


def test_a_size_that_is_fixed_refuses_at_submit(docker: FakeDocker, make_backend: MakeBackend) -> None:
    backend = make_backend(cpus=2, memory="2g", larger_sizes=False)
    with DragonflyExecutor(backend=backend, max=1) as executor:
        view = executor.options(requires={"cpus": 1, "memory": "3GiB"})
        with pytest.raises(RequirementsError, match="the nearest has 2 CPUs, 2 GiB of memory"):
            view.submit(os.getpid)
    with pytest.raises(BootError, match=r"require 3 CPUs, and a container has 2 CPUs") as caught:
        boot(docker, backend, cpus=3)
    assert caught.value.final
    assert docker.containers == {}


def test_a_label_that_no_container_has_is_refused(make_backend: MakeBackend) -> None:
    with DragonflyExecutor(backend=make_backend(labels={"eu"}), max=1) as executor:
        view = executor.options(requires={"label": "us"})
        with pytest.raises(RequirementsError, match="the nearest has the label eu"):
            view.submit(os.getpid)


def test_a_size_that_the_user_sets_in_the_engines_words_stays(docker: FakeDocker, make_backend: MakeBackend) -> None:
    config, node = boot(docker, make_backend(memory="1g", cpus=1, host_config={"Memory": 3 * GIB}), memory=2 * GIB)
    assert config["Memory"] == 3 * GIB
    assert node.capacity is None


@pytest.mark.parametrize("arguments", [{"gpus": -1}, {"gpus": 1.5}, {"labels": "eu"}])
def test_what_is_no_size_is_refused(make_backend: MakeBackend, arguments: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=r"gpus|labels"):
        make_backend(**arguments)


def test_a_command_line_can_fix_the_size(docker: FakeDocker) -> None:
    settings = {"socket": docker.path, "cpus": "2", "memory": "2g", "labels": "eu,big"}
    backend = DockerBackend.from_text(**settings, larger_sizes="false")
    assert [*backend.capacities()] == [Capacity(2.0, 0, 2 * GIB, frozenset({"eu", "big"}))]
