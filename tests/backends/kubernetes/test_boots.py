"""Pods that wait, Pods that never start, Pods that end: what a boot makes of each."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any

import pytest

from dragonfly_executor import BootError, BootRequest, BootTimeoutError, Parent, RunnerLostError
from dragonfly_executor.backends.base import CancelToken, Node
from dragonfly_executor.backends.kubernetes.backend import KubernetesBackend
from tests.backends.kubernetes.conftest import Make, MakeBackend
from tests.support.helpers import PATIENCE, Gate, Mailbox, error_of
from tests.support.payloads import hold, pid

if TYPE_CHECKING:
    from tests.support.kubernetes_simulator.simulator import Cluster

pytestmark = pytest.mark.engine


class Clock:
    """Notes what a boot reports."""

    def __init__(self) -> None:
        self.reported: list[str] = []
        self.has_started = threading.Event()

    def queued(self) -> None:
        self.reported.append("queued")

    def started(self) -> None:
        self.reported.append("started")
        self.has_started.set()


def request(**more: Any) -> BootRequest:
    """A boot without a pool. Its runner has nobody to dial."""
    parent = Parent.new("test", 1, "kubernetes")._replace(address="127.0.0.1:1", fingerprint="00" * 32, token="00" * 32)
    return BootRequest(1, parent, PATIENCE, CancelToken())._replace(**more)


def boot_error(backend: KubernetesBackend, **more: Any) -> BootError:
    """The error of a boot, or of the node that it returned."""
    try:
        node = backend.boot(request(**more))
    except BootError as error:
        return error
    found, until = None, time.monotonic() + PATIENCE
    while found is None and time.monotonic() < until:
        found = node.ended(5.0)
    node.stop()
    assert found is not None
    return found


def test_calls_run_on_several_pods(
    cluster: Cluster, make: Make, make_backend: MakeBackend, mailbox: Mailbox, gate: Gate
) -> None:
    """Each Pod is a runner of its own, with as many calls at once as it has CPUs."""
    executor = make(make_backend(resources={"cpu": 2}), max=2, max_concurrency=None)
    futures = [executor.submit(hold, mailbox.path, gate.path) for _ in range(4)]
    assert len(set(mailbox.numbers(4))) == 4
    assert len(cluster.pods()) == executor.pool.stats().runners_up == 2
    gate.open(4)
    wait(futures)
    executor.shutdown()
    assert cluster.pods() == cluster.secrets() == []


def test_a_runner_has_a_pods_environment(cluster: Cluster, make: Make, make_backend: MakeBackend) -> None:
    """Nothing of this program's, and not the token."""
    executor = make(make_backend(env={"MODE": "test"}))
    environment = executor.submit(dict, os.environ).result(PATIENCE)
    seen = executor.submit(lambda: dict(os.environ)).result(PATIENCE)
    assert environment["HOME"] == os.environ["HOME"]
    assert seen["MODE"] == "test"
    assert seen["HOSTNAME"] == cluster.running()[2]
    assert "KUBECONFIG" not in seen
    parent = Parent.decode(seen["DRAGONFLY_PARENT"])
    assert parent.token is None


def test_an_entrypoint_can_be_kept(make: Make, make_backend: MakeBackend) -> None:
    image = "registry.example/app:entrypoint"
    for kept, seen in ((True, "yes"), (False, None)):
        executor = make(make_backend(image, keep_entrypoint=kept))
        assert executor.submit(os.getenv, "FROM_ENTRYPOINT").result(PATIENCE) == seen
        executor.shutdown()


def test_an_entrypoint_that_runs_nothing_is_told(cluster: Cluster, make_backend: MakeBackend) -> None:
    error = boot_error(make_backend("registry.example/app:mute", keep_entrypoint=True))
    assert "exited with code 0: a runner that was told to end, or an image whose ENTRYPOINT" in str(error)
    assert cluster.pods() == []


# -- the queue ---------------------------------------------------------------------------------------------------------


def test_a_pod_that_waits_for_a_node_is_not_late(cluster: Cluster, make: Make, make_backend: MakeBackend) -> None:
    """`boot_timeout` counts from when the Pod has a node."""
    from tests.support.kubernetes_simulator.nodes import ClusterNode

    executor = make(make_backend(node_selector={"disk": "fast"}), boot_timeout=3)
    future = executor.submit(pow, 2, 10)
    cluster.pod(lambda pod: pod["status"].get("conditions"))
    assert not threading.Event().wait(4)  # longer than boot_timeout
    assert not future.done()
    assert executor.pool.stats().runners_booting == 1
    cluster.add_node(ClusterNode("node-2", labels={"disk": "fast"}))
    assert future.result(PATIENCE) == 1024
    assert executor.pool.stats().boots_failed == 0


def started(backend: KubernetesBackend, **more: Any) -> Node:
    """A node whose Pod has got its node."""
    clock = Clock()
    node = backend.boot(request(clock=clock, **more))
    assert clock.has_started.wait(PATIENCE)
    return node


def test_a_boot_reports_when_it_waits_and_when_it_has_a_node(cluster: Cluster, make_backend: MakeBackend) -> None:
    clock = Clock()
    cluster.nodes.timing.schedule = 0.3
    node = make_backend().boot(request(clock=clock))
    assert node.is_queued
    assert clock.reported == ["queued"]
    assert clock.has_started.wait(PATIENCE)
    assert clock.reported == ["queued", "started"]
    assert not node.is_queued
    assert node.host == "node-1"
    node.stop()


def test_a_pod_that_waits_says_why(cluster: Cluster, make: Make, make_backend: MakeBackend) -> None:
    """In `stats().explain`, without a request to the API server."""
    executor = make(make_backend(resources={"cpu": 1000}))
    future = executor.submit(pow, 2, 10)
    cluster.pod(lambda pod: pod["status"].get("conditions"))
    until = time.monotonic() + PATIENCE
    while "Insufficient cpu" not in (said := executor.pool.stats().explain) and time.monotonic() < until:
        threading.Event().wait(0.02)
    assert "is Pending (Unschedulable): 0/1 nodes are available: 1 Insufficient cpu" in said
    future.cancel()


def test_a_pod_waits_no_longer_than_queue_timeout(cluster: Cluster, make_backend: MakeBackend) -> None:
    error = boot_error(make_backend(queue_timeout=0.5, resources={"cpu": 1000}))
    assert isinstance(error, BootTimeoutError)
    assert error.phase == "queue"
    assert "is Pending (Unschedulable): 0/1 nodes are available: 1 Insufficient cpu" in str(error)
    assert "The Pod got no node within 0.5 s (queue_timeout)" in str(error)
    assert cluster.pods() == []


def test_tolerations_and_selectors_choose_the_node(cluster: Cluster, make_backend: MakeBackend) -> None:
    from tests.support.kubernetes_simulator.nodes import ClusterNode

    taint = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
    cluster.add_node(ClusterNode("node-2", labels={"gpu": "yes"}, taints=[taint]))
    given = {"node_selector": {"gpu": "yes"}}
    error = boot_error(make_backend(queue_timeout=0.3, **given))
    assert "untolerated taint {gpu: yes}" in str(error)
    node = started(make_backend(tolerations=[{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}], **given))
    assert node.host == "node-2"
    node.stop()


def test_a_pod_that_somebody_deletes_in_the_queue(cluster: Cluster, make_backend: MakeBackend) -> None:
    found: list[BootError] = []
    backend = make_backend(resources={"cpu": 1000})
    thread = threading.Thread(target=lambda: found.append(boot_error(backend)))
    thread.start()
    key = cluster.pod(lambda pod: pod["status"].get("conditions"))
    cluster.do(cluster.nodes.delete, key, 30)
    thread.join(PATIENCE)
    assert found[0].phase == "queue"
    assert key[2] in str(found[0])


# -- images and containers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("registry.example/none:1", "registry.example/none:1: not found. Check image="),
        ("registry.example/app:denied", "pull access denied, repository does not exist"),
    ],
)
def test_an_image_that_cannot_be_pulled_fails_the_boot_at_once(
    cluster: Cluster, make_backend: MakeBackend, image: str, words: str
) -> None:
    error = boot_error(make_backend(image))
    assert error.final
    assert error.phase == "start"
    assert words in str(error)
    assert cluster.pods() == []


def test_a_registry_that_is_away_for_a_moment_is_waited_for(
    cluster: Cluster, make: Make, make_backend: MakeBackend
) -> None:
    image = "registry.example/app:away"
    future = make(make_backend(image)).submit(pow, 2, 3)
    cluster.pod(lambda pod: "ImagePullBackOff" in str(pod["status"]))
    cluster.do(cluster.images.__setitem__, image, cluster.images["registry.example/app:1"])
    assert future.result(PATIENCE) == 8


def test_a_boot_that_ends_during_a_pull_says_what_the_node_waits_for(
    cluster: Cluster, make: Make, make_backend: MakeBackend
) -> None:
    executor = make(make_backend("registry.example/app:away"), boot_timeout=1.5, max_boot_failures=1)
    error = error_of(executor.submit(pow, 2, 3))
    assert isinstance(error, BootTimeoutError)
    assert "(ImagePullBackOff)" in str(error) or "(ErrImagePull)" in str(error)


def test_a_slow_pull_is_boot_time(cluster: Cluster, make: Make, make_backend: MakeBackend) -> None:
    future = make(make_backend("registry.example/app:slow")).submit(pow, 2, 3)
    key = cluster.pod(lambda pod: pod["spec"].get("nodeName"))
    cluster.do(cluster.nodes.finish_pull, key)
    assert future.result(PATIENCE) == 8


def test_a_secret_of_the_template_that_is_missing_is_told(cluster: Cluster, make_backend: MakeBackend) -> None:
    reference = {"secretKeyRef": {"name": "credentials", "key": "a"}}
    container = {"name": "runner", "env": [{"name": "A", "valueFrom": reference}]}
    error = boot_error(make_backend(pod_template={"spec": {"containers": [container]}}))
    assert error.final
    assert 'secret "credentials" not found' in str(error)
    assert cluster.pods() == []


def test_a_secret_that_comes_late_is_waited_for(cluster: Cluster, make: Make, make_backend: MakeBackend) -> None:
    """The node looks again."""
    waits = threading.Event()

    def hold_back(_: str) -> None:
        cluster.pod(lambda pod: "CreateContainerConfigError" in str(pod["status"]))
        waits.set()

    cluster.faults.on("create secrets", before=hold_back)
    assert make(make_backend()).submit(pow, 2, 3).result(PATIENCE) == 8
    assert waits.is_set()


@pytest.mark.parametrize(
    ("image", "python", "words"),
    [
        ("registry.example/app:1", "python9", "the command that starts the runner was not found"),
        ("registry.example/app:broken", "python3", "this image lacks libexample.so"),
    ],
)
def test_a_runner_that_does_not_start_leaves_its_output(
    cluster: Cluster, make_backend: MakeBackend, image: str, python: str, words: str
) -> None:
    error = boot_error(make_backend(image, python=python))
    assert error.phase == "connect"
    assert words in str(error)
    assert cluster.pods() == []


def test_a_runner_that_cannot_reach_the_parent_says_so(cluster: Cluster, make_backend: MakeBackend) -> None:
    error = boot_error(make_backend(failsafe=0.5))
    assert "it could not reach the parent: does host= name an address" in str(error)
    assert "could not reach the parent at 127.0.0.1:1" in error.output


# -- ends of runners ---------------------------------------------------------------------------------------------------


def lost(make: Make, backend: KubernetesBackend, mailbox: Mailbox, gate: Gate, end: Any) -> str:
    """The error of a call whose runner is ended so."""
    executor = make(backend)
    future = executor.submit(hold, mailbox.path, gate.path)
    mailbox.read()
    end()
    error = error_of(future)
    assert isinstance(error, RunnerLostError)
    assert executor.submit(pid).result(PATIENCE)
    return str(error)


def test_a_pod_without_memory(
    cluster: Cluster, make: Make, make_backend: MakeBackend, mailbox: Mailbox, gate: Gate
) -> None:
    text = lost(
        make, make_backend(), mailbox, gate, lambda: cluster.do(cluster.nodes.run_out_of_memory, cluster.running())
    )
    assert "used more memory than its limit (OOMKilled, exit code 137): raise resources=" in text
    assert "on node-1" in text


def test_a_pod_that_its_node_evicts(
    cluster: Cluster, make: Make, make_backend: MakeBackend, mailbox: Mailbox, gate: Gate
) -> None:
    text = lost(make, make_backend(), mailbox, gate, lambda: cluster.do(cluster.nodes.evict_by_node, cluster.running()))
    assert (
        "was evicted by its node: ask for what it uses with resources= (The node was low on resource: memory." in text
    )


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("EvictionByEvictionAPI", "was evicted, as by kubectl drain"),
        ("PreemptionByScheduler", "was preempted by a Pod of higher priority"),
    ],
)
def test_a_pod_that_is_evicted_or_preempted_has_its_grace_period(
    cluster: Cluster, make: Make, make_backend: MakeBackend, mailbox: Mailbox, gate: Gate, reason: str, words: str
) -> None:
    """SIGTERM comes first. A call that ends in time has its result; the next calls run elsewhere."""
    executor = make(make_backend())
    future = executor.submit(hold, mailbox.path, gate.path, "done")
    mailbox.read()
    cluster.do(cluster.nodes.evict, cluster.running(), reason, "for a test")
    cluster.pod(lambda pod: pod["metadata"].get("deletionTimestamp"))
    gate.open()
    assert future.result(PATIENCE) == "done"
    assert executor.submit(pid).result(PATIENCE)
    assert executor.pool.stats().boots_attempted == 2


def test_a_call_that_outlasts_the_grace_period_says_what_stopped_its_pod(
    cluster: Cluster, make: Make, make_backend: MakeBackend, mailbox: Mailbox, gate: Gate
) -> None:
    cluster.nodes.timing.second = 0.02
    text = lost(make, make_backend(), mailbox, gate, lambda: cluster.do(cluster.nodes.evict, cluster.running()))
    assert "was evicted, as by kubectl drain or the cluster autoscaler" in text


def test_a_pod_that_has_lived_long_enough(
    cluster: Cluster, make: Make, make_backend: MakeBackend, mailbox: Mailbox, gate: Gate
) -> None:
    cluster.nodes.timing.second = 0.05
    text = lost(make, make_backend(max_lifetime=60), mailbox, gate, lambda: None)
    assert "max_lifetime" in text


def test_a_node_that_is_lost(
    cluster: Cluster, make: Make, make_backend: MakeBackend, mailbox: Mailbox, gate: Gate
) -> None:
    """The Pod stays as an object that is being deleted, until the node is removed."""
    from tests.support.kubernetes_simulator.nodes import ClusterNode

    cluster.add_node(ClusterNode("node-2"))

    def lose() -> None:
        node = cluster.get(cluster.running())["spec"]["nodeName"]
        cluster.do(cluster.nodes.lose_node, node)
        removal.append(node)

    removal: list[str] = []
    text = lost(make, make_backend(), mailbox, gate, lose)
    assert "its node has a taint that it does not tolerate, as a node that is lost has" in text
    cluster.do(cluster.nodes.remove_node, removal[0])


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_quota_that_is_full_is_no_final_error(cluster: Cluster, make: Make, make_backend: MakeBackend) -> None:
    """Other runners go on, and the boot is tried again."""
    cluster.api.quota["media"] = 0
    error = boot_error(make_backend())
    assert not error.final
    assert "exceeded quota: compute, requested: pods=1, used: pods=0, limited: pods=0" in str(error)
    assert "The namespace's quota has no room for another Pod now" in str(error)


def test_a_right_that_is_missing_is_named(cluster: Cluster, make_backend: MakeBackend) -> None:
    for right in tuple(cluster.account.rights or ()):
        if right.resource == "secrets":
            cluster.restrict((cluster.account.rights or frozenset()) - {right})
    error = boot_error(make_backend())
    assert error.final
    assert 'cannot create resource "secrets" in API group "" in the namespace "media"' in str(error)
    assert "docs/kubernetes.md has a Role" in str(error)
    assert cluster.pods() == []


def test_a_watch_that_is_forbidden_fails_the_boot(cluster: Cluster, make_backend: MakeBackend) -> None:
    rights = cluster.account.rights or frozenset()
    cluster.restrict(frozenset(right for right in rights if right.verb != "watch"))
    error = boot_error(make_backend(resources={"cpu": 1000}))
    assert error.final
    assert 'cannot watch resource "pods"' in str(error)
    assert cluster.pods() == []


def test_a_misspelled_field_of_the_template_is_refused_and_not_ignored(
    cluster: Cluster, make_backend: MakeBackend
) -> None:
    error = boot_error(make_backend(pod_template={"spec": {"hostNetwrok": True}}))
    assert error.final
    assert "strict decoding error" in str(error)
    assert "hostNetwrok" in str(error)
    assert cluster.api.violations
    cluster.api.violations.clear()


def test_a_value_that_kubernetes_refuses_is_told_in_its_words(cluster: Cluster, make_backend: MakeBackend) -> None:
    error = boot_error(make_backend(resources={"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}))
    assert error.final
    assert "must be less than or equal to memory limit" in str(error)
