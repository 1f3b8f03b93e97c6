"""The parent is killed at each step, and so is its Pod: no process is left, and the cluster removes what it owns."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dragonfly_executor.backends.kubernetes import access
from dragonfly_executor.backends.kubernetes.backend import KubernetesBackend
from tests.backends.kubernetes.conftest import Make, MakeBackend
from tests.support.helpers import PATIENCE, Gate, Mailbox, all_ended, watching

if TYPE_CHECKING:
    from tests.support.kubernetes_simulator.simulator import Cluster

pytestmark = pytest.mark.engine


@contextmanager
def program(mailbox: Mailbox, gate: Gate, *settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `tests.backends.kubernetes.program`; kill it if it still runs."""
    command = [sys.executable, "-m", "tests.backends.kubernetes.program", mailbox.path, gate.path, *settings]
    running = subprocess.Popen(command, env=dict(os.environ))
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def kill_at(parent: list[subprocess.Popen[bytes]]) -> Callable[[str], None]:
    def kill(_: str) -> None:
        parent[0].kill()
        parent[0].wait()

    return kill


STEPS = [
    ("create pods", {"before": True}),
    ("create pods", {"before": True, "commit": False, "cut": True}),
    ("create pods", {"after": True}),
    ("create secrets", {"before": True}),
    ("create secrets", {"before": True, "commit": False, "cut": True}),
    ("create secrets", {"after": True}),
]


@pytest.mark.parametrize(("action", "fault"), STEPS, ids=lambda value: str(value))
def test_a_parent_that_is_killed_during_a_boot_leaves_no_process(
    cluster: Cluster, mailbox: Mailbox, gate: Gate, action: str, fault: dict[str, bool]
) -> None:
    """A Pod without its Secret never starts, and a runner without its parent ends."""
    parent: list[subprocess.Popen[bytes]] = []
    hooks = {name: kill_at(parent) for name in ("before", "after") if name in fault}
    cluster.faults.on(action, **{**fault, **hooks})
    with program(mailbox, gate) as running:
        parent.append(running)
        assert running.wait(PATIENCE) == -signal.SIGKILL
    cluster.until(lambda: any(asked.action == action for asked in cluster.asked))
    for pod in cluster.pods():
        key = ("pods", "media", pod["metadata"]["name"])
        if cluster.secrets():
            cluster.until(lambda key=key: cluster.get(key)["status"]["phase"] == "Failed")
            assert "could not reach the parent" in cluster.log(key) or "refused" in cluster.log(key)
        else:
            cluster.until(lambda key=key: "CreateContainerConfigError" in str(cluster.get(key)["status"]))
            assert cluster.pid(key) is None


def test_a_parent_that_is_killed_leaves_no_running_pod(cluster: Cluster, mailbox: Mailbox, gate: Gate) -> None:
    with program(mailbox, gate) as parent, watching(int(mailbox.read())) as slots:
        key = cluster.running()
        parent.kill()
        cluster.until(lambda: cluster.get(key)["status"]["phase"] in ("Succeeded", "Failed"))
        assert all_ended(slots)
        assert cluster.pid(key) is None


def test_a_pod_that_gets_its_node_after_its_parent_was_killed_ends_by_itself(
    cluster: Cluster, mailbox: Mailbox, gate: Gate
) -> None:
    from tests.support.kubernetes_simulator.nodes import ClusterNode

    with program(mailbox, gate, "selector=none") as parent:
        key = cluster.pod(lambda pod: pod["status"].get("conditions"))
        cluster.until(cluster.secrets)
        parent.kill()
        parent.wait()
        cluster.add_node(ClusterNode("node-2", labels={"there-is": "none"}))
        cluster.until(lambda: cluster.get(key)["status"]["phase"] == "Failed")
    assert "dragonfly runner: " in cluster.log(key)


# -- in a Pod ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def in_pod(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """This program runs in a Pod: it has a service account, and no kubeconfig."""
    account = tmp_path / "serviceaccount"
    account.mkdir()
    (account / "token").write_text(cluster.token)
    (account / "namespace").write_text("media")
    (account / "ca.crt").write_bytes(cluster.certificate)
    host, _, port = cluster.url.removeprefix("https://").partition(":")
    monkeypatch.setattr(access, "SERVICE_ACCOUNT", str(account))
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    monkeypatch.setenv("POD_NAME", "app-0")
    return cluster


def test_the_cluster_removes_runners_with_the_parents_pod(
    in_pod: Cluster, make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    """Even if no process of this program is left that could."""
    own = in_pod.own_pod("app-0")
    backend = KubernetesBackend("registry.example/app:1", sync=None, sweep=False)
    assert backend.access.source == "this Pod's service account"
    assert backend.listen_address() == ("127.0.0.1", 0)
    executor = make(backend, max_boot_failures=1)
    from tests.support.payloads import hold

    executor.submit(hold, mailbox.path, gate.path)
    mailbox.read()
    key = in_pod.running()
    (owner,) = in_pod.get(key)["metadata"]["ownerReferences"]
    assert owner["uid"] == in_pod.get(own)["metadata"]["uid"]
    in_pod.nodes.timing.second = 0.01
    in_pod.do(in_pod.nodes.delete, own, 0)
    in_pod.until(lambda: key[2] not in [pod["metadata"]["name"] for pod in in_pod.pods()])
    in_pod.until(lambda: len(in_pod.secrets()) == len(in_pod.pods()))


def test_an_owner_in_another_namespace_is_none(in_pod: Cluster, make: Make) -> None:
    """The cluster deletes objects at once whose owner it does not find in their namespace."""
    in_pod.account.namespaces = frozenset({"media", "default"})
    in_pod.own_pod("app-0")
    executor = make(KubernetesBackend("registry.example/app:1", sync=None, sweep=False, namespace="default"))
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    (pod,) = in_pod.pods()
    assert "ownerReferences" not in pod["metadata"]


def test_a_parent_that_does_not_find_its_pod_says_so(
    in_pod: Cluster, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    executor = make(KubernetesBackend("registry.example/app:1", sync=None, sweep=False))
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    assert (
        "have no owner, and stay until their runners end: there is no Pod app-0 in media: set POD_NAME" in caplog.text
    )


def test_a_rotated_account_token_is_read_again(in_pod: Cluster, make: Make, tmp_path: Path) -> None:
    """The kubelet writes another one long before the old one expires."""
    in_pod.own_pod("app-0")
    executor = make(KubernetesBackend("registry.example/app:1", sync=None, sweep=False), single_use=True)
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    (tmp_path / "serviceaccount" / "token").write_text(in_pod.expire_token())
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024


# -- rights and secrets ------------------------------------------------------------------------------------------------


def test_the_rights_of_the_guide_are_enough_and_none_is_too_many(in_pod: Cluster, make: Make) -> None:
    """With the account's rights, a runner boots, works and ends; each right was used."""
    in_pod.own_pod("app-0")
    executor = make(KubernetesBackend("registry.example/app:1", sync=None, sweep=False))
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    executor.shutdown()
    assert in_pod.account.used == in_pod.account.rights


def test_the_manifests_of_the_guide_fit_the_schemas(cluster: Cluster) -> None:
    from tests.backends.kubernetes.conftest import manifests
    from tests.support.kubernetes_simulator.schemas import faults_of

    kinds = [manifest["kind"] for manifest in manifests()]
    assert kinds == ["ServiceAccount", "Role", "RoleBinding"]
    for manifest in manifests():
        assert list(faults_of(manifest, manifest["apiVersion"], manifest["kind"])) == []


def test_the_token_is_only_in_the_secret(
    cluster: Cluster, make: Make, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, mailbox: Mailbox, gate: Gate,
) -> None:  # fmt: skip
    """Not in the Pod, in a URL, in an argument of a process, in its environment, or in a log."""
    import base64

    from dragonfly_executor import Parent
    from tests.support.payloads import hold

    caplog.set_level("DEBUG")
    executor = make(make_backend())
    executor.submit(hold, mailbox.path, gate.path)
    mailbox.read()
    key = cluster.running()
    (secret,) = cluster.secrets()
    described = base64.b64decode(secret["data"]["parent"]).decode()
    token = Parent.decode(described).token
    assert token is not None
    needles = (token, described, secret["data"]["parent"])
    pid = cluster.pid(key)
    shown = [str(cluster.get(key)), cluster.log(key), caplog.text, repr(executor.pool), repr(make_backend())]
    shown += [Path(f"/proc/{pid}/{file}").read_bytes().decode(errors="replace") for file in ("cmdline", "environ")]
    shown += [asked.raw for asked in cluster.asked if asked.action != "create secrets"]
    assert not [text for text in shown for needle in needles if needle in text]


def test_credentials_are_not_shown(cluster: Cluster, make_backend: MakeBackend) -> None:
    backend = make_backend()
    for text in (repr(backend), repr(backend.access), str(backend.access)):
        assert cluster.token not in text
