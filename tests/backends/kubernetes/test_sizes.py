"""Pods with other resources and on other nodes, for calls that require that."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from dragonfly_executor import BootTimeoutError, Parent, RequirementsError
from dragonfly_executor.backends.kubernetes.backend import KubernetesBackend
from dragonfly_executor.core.capacity import Requirements
from tests.backends.kubernetes.conftest import Make, MakeBackend
from tests.backends.kubernetes.test_boots import boot_error
from tests.support.helpers import PATIENCE, error_of

if TYPE_CHECKING:
    from dragonfly_executor import DragonflyExecutor
    from tests.support.kubernetes_simulator.simulator import Cluster

pytestmark = pytest.mark.engine

GPU = "nvidia.com/gpu"
EU = {"topology.kubernetes.io/region": "eu-west-1"}


def runner_of(pod: Any) -> Any:
    return pod["spec"]["containers"][0]


def slot() -> int:
    parent = Parent.get()
    assert parent is not None
    return parent.slot


def capacity_of(executor: DragonflyExecutor) -> tuple[object, ...]:
    (runner,) = executor.pool.stats().runners
    has = runner.capacity
    assert has is not None
    return has.cpus, has.gpus, has.memory, has.labels


def test_a_pod_has_what_its_calls_require(cluster: Cluster, make: Make, make_backend: MakeBackend) -> None:
    """On a node with the label and the GPUs, and its runner takes as many calls at once as the Pod has CPUs."""
    from tests.support.kubernetes_simulator.nodes import ClusterNode

    cluster.add_node(ClusterNode("node-eu", labels=EU))
    cluster.add_node(ClusterNode("node-gpu", labels=EU, devices={GPU: 2.0}))
    executor = make(make_backend(labels={"eu": EU}), max_concurrency=None)
    required = {"cpus": 2, "gpus": 1, "memory": "2GiB", "label": "eu"}
    assert executor.options(requires=required).submit(slot).result(PATIENCE) in (0, 1)
    pod = cluster.get(cluster.running())
    assert pod["spec"]["nodeName"] == "node-gpu"
    assert runner_of(pod)["resources"] == {
        "requests": {"cpu": "2", "memory": str(2**31), GPU: "1"},
        "limits": {"memory": str(2**31), GPU: "1"},
    }
    assert capacity_of(executor) == (2.0, 1, 2**31, ("eu",))
    assert executor.pool.stats().runners[0].slots == 2


def test_a_pod_of_the_backends_own_size_states_what_it_has(make: Make, make_backend: MakeBackend) -> None:
    """Its agent sees all CPUs of the node, as a request for CPUs is no limit."""
    executor = make(make_backend(resources={"cpu": "500m", "memory": "256Mi"}, labels={"ours"}))
    assert executor.options(requires={"label": "ours"}).submit(pow, 2, 10).result(PATIENCE) == 1024
    assert capacity_of(executor) == (0.5, 0, 2**28, ("ours",))


def test_small_and_large_calls_get_pods_of_their_own_sizes(
    cluster: Cluster, make: Make, make_backend: MakeBackend
) -> None:
    executor = make(make_backend(), max=2, max_concurrency=None)
    assert executor.submit(pow, 2, 3).result(PATIENCE) == 8
    large = executor.options(requires={"cpus": 3}).submit(pow, 2, 4)
    assert large.result(PATIENCE) == 16
    assert sorted(runner_of(pod)["resources"]["requests"]["cpu"] for pod in cluster.pods()) == ["1", "3"]


def test_a_pod_that_no_node_can_have_says_why_it_waits(cluster: Cluster, make: Make, make_backend: MakeBackend) -> None:
    executor = make(make_backend())
    future = executor.options(requires={"gpus": 8}).submit(pow, 2, 10)
    cluster.pod(lambda pod: pod["status"].get("conditions"))
    words = "is Pending (Unschedulable): 0/1 nodes are available: 1 Insufficient nvidia.com/gpu"
    until = time.monotonic() + PATIENCE
    while words not in (said := executor.pool.stats().explain) and time.monotonic() < until:
        threading.Event().wait(0.02)
    assert words in said
    assert "The calls that wait for it require 8 GPUs" in said
    assert not future.done()
    future.cancel()


def test_such_a_pod_waits_no_longer_than_queue_timeout(cluster: Cluster, make_backend: MakeBackend) -> None:
    backend = make_backend(queue_timeout=0.5, labels={"eu": EU})
    error = boot_error(backend, requires=Requirements(labels=frozenset({"eu"})))
    assert isinstance(error, BootTimeoutError)
    assert "1 node(s) didn't match Pod's node affinity/selector" in str(error)
    assert "The calls that wait for it require the label eu. The Pod got no node within 0.5 s" in str(error)
    assert cluster.pods() == []


@pytest.mark.parametrize(
    ("arguments", "requires", "nearest"),
    [
        ({"max_resources": {"cpu": 4, "memory": "8Gi", GPU: 0}}, {"cpus": 5}, "4 CPUs, 8 GiB of memory"),
        ({"max_resources": {"cpu": 4, "memory": "8Gi", GPU: 1}}, {"gpus": 2}, "4 CPUs, 1 GPU, 8 GiB of memory"),
        ({"labels": {"eu": EU}}, {"label": "us"}, "the label eu"),
    ],
)
def test_calls_that_require_more_than_the_user_allows_are_refused_at_submit(
    cluster: Cluster, make: Make, make_backend: MakeBackend, arguments: Any, requires: Any, nearest: str
) -> None:
    executor = make(make_backend(**arguments))
    with pytest.raises(RequirementsError, match=f"the nearest has {nearest}: require less"):
        executor.options(requires=requires).submit(pow, 2, 2)
    assert cluster.pods() == []


def test_labels_that_contradict_each_other_fail_the_calls_and_no_pod_is_made(
    cluster: Cluster, make: Make, make_backend: MakeBackend
) -> None:
    executor = make(make_backend(labels={"eu": {"zone": "eu"}, "us": {"zone": "us"}}))
    error = error_of(executor.options(requires={"labels": ["eu", "us"]}).submit(pow, 2, 2))
    assert "no node has both zone=eu and zone=us" in str(error)
    assert cluster.pods() == []


def test_a_command_line_names_labels_and_the_resource_that_is_a_gpu(cluster: Cluster) -> None:
    backend = KubernetesBackend.from_text(
        image="registry.example/app:1", host="127.0.0.1", sync="none", queue_timeout="0.3", cpu="2",
        labels="eu,ours", gpu_resource="amd.com/gpu",
    )  # fmt: skip
    assert backend.labels == backend.capacities()[0].labels == {"eu", "ours"}
    assert backend.default_slots() == 2
    error = boot_error(backend, requires=Requirements(gpus=1, labels=frozenset({"eu"})))
    assert "1 Insufficient amd.com/gpu" in str(error)
