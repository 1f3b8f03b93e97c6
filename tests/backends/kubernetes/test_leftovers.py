"""Pods that a killed program has left: listed, swept and destroyed, by the backend and by the command."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from dragonfly_executor.backends.owner import Liveness
from dragonfly_executor.cli.main import main
from tests.backends.kubernetes.conftest import Make, MakeBackend
from tests.backends.kubernetes.test_boots import request
from tests.backends.kubernetes.test_chaos import program
from tests.support.helpers import PATIENCE, Gate, Mailbox

if TYPE_CHECKING:
    from tests.support.kubernetes_simulator.simulator import Cluster
    from tests.support.kubernetes_simulator.store import Key

pytestmark = pytest.mark.engine


def left_in_the_queue(cluster: Cluster, mailbox: Mailbox, gate: Gate) -> Key:
    """Kill a program whose Pod waits for a node."""
    with program(mailbox, gate, "selector=none") as parent:
        key = cluster.pod(lambda pod: pod["status"].get("conditions"))
        cluster.until(cluster.secrets)
        parent.kill()
        parent.wait()
    return key


def test_a_pod_of_a_killed_program_is_swept(
    cluster: Cluster, make_backend: MakeBackend, mailbox: Mailbox, gate: Gate
) -> None:
    key = left_in_the_queue(cluster, mailbox, gate)
    backend = make_backend()
    (found,) = backend.list_nodes()
    assert (found.name, found.state, found.liveness) == (key[2], "Pending", Liveness.GONE)
    assert found.age is not None
    swept = backend.sweep()
    assert ([one.name for one in swept.destroyed], swept.left) == ([key[2]], [])
    assert cluster.pods() == cluster.secrets() == []


def test_the_first_boot_of_the_next_program_sweeps(
    cluster: Cluster, make: Make, make_backend: MakeBackend, mailbox: Mailbox, gate: Gate
) -> None:
    key = left_in_the_queue(cluster, mailbox, gate)
    executor = make(make_backend(sweep=True))
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    cluster.until(lambda: key[2] not in [pod["metadata"]["name"] for pod in cluster.pods()])
    executor.shutdown()
    assert cluster.pods() == []


def test_a_pod_that_has_ended_is_swept_whoever_owns_it(cluster: Cluster, make_backend: MakeBackend) -> None:
    """Its owner may be in another Pod, whose processes cannot be seen from here."""
    backend = make_backend(failsafe=0.2)
    node = backend.boot(request())
    key = cluster.pod(lambda pod: pod["status"]["phase"] == "Failed")

    def elsewhere(pod: dict[str, Any]) -> None:
        annotations = pod["metadata"]["annotations"]
        label = json.loads(annotations["dragonfly-executor/owner"])
        owner = ["elsewhere", *json.loads(label["dragonfly_owner"])[1:]]
        annotations["dragonfly-executor/owner"] = json.dumps({**label, "dragonfly_owner": json.dumps(owner)})

    cluster.do(cluster.store.change, key, elsewhere)
    (found,) = backend.list_nodes()
    assert (found.liveness, found.why) == (Liveness.GONE, "its runner has ended")
    assert len(backend.sweep().destroyed) == 1
    node.stop()


def test_pods_of_others_are_neither_listed_nor_swept(cluster: Cluster, make_backend: MakeBackend) -> None:
    """One without our labels, and one with a damaged owner."""
    cluster.own_pod("app-0")
    labels = {"app.kubernetes.io/managed-by": "dragonfly-executor"}
    for name, text in (("a", "{{"), ("b", "[]"), ("c", '{"dragonfly_kind": 3}')):
        metadata = {"name": name, "labels": labels, "annotations": {"dragonfly-executor/owner": text}}
        spec = {"nodeName": "node-1", "containers": [{"name": "x", "image": "y"}]}
        pod = {"metadata": metadata, "spec": spec, "status": {"phase": "Running"}}
        cluster.do(cluster.store.add, ("pods", "media", name), pod)
    backend = make_backend()
    assert backend.list_nodes() == []
    assert backend.sweep() == ([], [])
    assert len(cluster.do(cluster.store.find, "pods")) == 4


def test_a_pod_that_could_not_be_deleted_is_left_to_the_next_sweep(
    cluster: Cluster, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Even while this process lives."""
    monkeypatch.setattr("dragonfly_executor.backends.kubernetes.node.STOP_TIMEOUT", 0.5)
    backend = make_backend()
    node = backend.boot(request())
    cluster.go_away()
    node.stop(0.5)
    assert "may still exist" in caplog.text
    cluster.come_back()
    assert [found.why for found in backend.list_nodes()] == ["its pool has released it"]
    assert len(backend.sweep().destroyed) == 1
    assert cluster.pods() == []


def test_the_commands_list_and_sweep(
    cluster: Cluster, mailbox: Mailbox, gate: Gate, capsys: pytest.CaptureFixture[str]
) -> None:
    key = left_in_the_queue(cluster, mailbox, gate)
    assert main(["list", "--backend", "kubernetes"]) == 0
    shown = capsys.readouterr().out
    assert key[2] in shown
    assert "Pending" in shown
    assert main(["sweep", "--backend", "kubernetes", "--yes"]) == 0
    assert cluster.pods() == []


# -- the doctor --------------------------------------------------------------------------------------------------------


SETTINGS = ["--set", "host=127.0.0.1", "--set", "sync=none", "--set", "image=registry.example/app:1"]


def test_the_doctor_tells_each_step(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--backend", "kubernetes", *SETTINGS, "--set", "cpu=2"]) == 0
    out = capsys.readouterr().out
    lines = [line.split()[:2] for line in out.splitlines()]
    assert lines[:6] == [
        ["kubernetes"], ["cluster", "ok"], ["rights", "ok"], ["create", "ok"], ["queue", "ok"], ["start", "ok"],
    ]  # fmt: skip
    assert "all 6 rights in namespace media" in out
    assert cluster.pods() == []


def test_the_doctor_names_rights_that_are_missing_and_boots_nothing(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    rights = cluster.account.rights or frozenset()
    cluster.restrict(frozenset(right for right in rights if right.resource == "pods" and right.verb != "watch"))
    assert main(["doctor", "--backend", "kubernetes", *SETTINGS]) == 1
    out = capsys.readouterr().out
    assert "watch pods (no RBAC policy matched), create secrets" in " ".join(out.split())
    assert "docs/kubernetes.md has a Role" in " ".join(out.split())
    assert not [asked for asked in cluster.asked if asked.action == "create pods"]


def test_the_doctor_tells_a_cluster_that_is_away(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.expire_token()
    assert main(["doctor", "--backend", "kubernetes", *SETTINGS]) == 1
    assert "Unauthorized" in capsys.readouterr().out


def test_the_doctor_without_an_image(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--backend", "kubernetes"]) == 1
    assert "the image of the runners is not set" in " ".join(capsys.readouterr().out.split())
