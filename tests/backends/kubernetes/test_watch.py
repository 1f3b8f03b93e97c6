"""One list and one watch show all Pods: versions that are too old, cuts, bookmarks, garbage, a server that is away."""

from __future__ import annotations

import json
import math
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dragonfly_executor import BootError, DragonflyExecutor
from tests.backends.kubernetes.conftest import Make, MakeBackend
from tests.backends.kubernetes.test_boots import Clock, request
from tests.support.helpers import PATIENCE, Gate, Mailbox
from tests.support.payloads import hold

if TYPE_CHECKING:
    from tests.support.kubernetes_simulator.simulator import Cluster

pytestmark = pytest.mark.engine

NEVER = {"there-is": "none"}


def count(cluster: Cluster, action: str) -> int:
    return sum(asked.action == action for asked in cluster.asked)


def printed_by(*command: str) -> dict[str, object]:
    """A kubeconfig's user whose token a program prints."""
    described = {"command": command[0], "args": list(command[1:]), "installHint": "Install it"}
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never", **described}}


def booting(cluster: Cluster, make: Make, make_backend: MakeBackend) -> tuple[DragonflyExecutor, Future[int]]:
    """A call that waits for a Pod that waits for a node, with a watch that is open."""
    executor = make(make_backend(node_selector=NEVER))
    future = executor.submit(pow, 2, 10)
    cluster.pod(lambda pod: pod["status"].get("conditions"))
    cluster.until(lambda: cluster.hub.open)
    return executor, future


def let_run(cluster: Cluster, future: Future[int]) -> None:
    from tests.support.kubernetes_simulator.nodes import ClusterNode

    cluster.add_node(ClusterNode("node-2", labels=NEVER))
    assert future.result(PATIENCE) == 1024


def test_all_boots_share_one_watch_and_its_thread_ends_with_them(
    cluster: Cluster, make: Make, make_backend: MakeBackend
) -> None:
    executor = make(make_backend(), max=3, max_concurrency=1)
    assert list(executor.map(pow, range(6), [2] * 6)) == [0, 1, 4, 9, 16, 25]
    assert count(cluster, "list pods") == count(cluster, "watch pods") == 1
    assert count(cluster, "get pods") == 0
    executor.shutdown()
    cluster.until(lambda: not cluster.hub.open)
    assert not [thread for thread in threading.enumerate() if thread.name == "dragonfly-kubernetes-watch"]


@pytest.mark.parametrize("as_status", [False, True])
def test_a_version_that_is_too_old_makes_it_list_again(
    cluster: Cluster, make: Make, make_backend: MakeBackend, as_status: bool
) -> None:
    """410, as an event of the watch or as the answer to it."""
    cluster.api.gone_as_status = as_status
    _, future = booting(cluster, make, make_backend)
    lists = count(cluster, "list pods")
    cluster.compact()
    cluster.until(lambda: count(cluster, "list pods") > lists and cluster.hub.open)
    let_run(cluster, future)


def test_a_watch_that_ends_goes_on_where_it_ended(cluster: Cluster, make: Make, make_backend: MakeBackend) -> None:
    """No list, and no event is lost or seen twice."""
    cluster.hub.longest = 1.2
    _, future = booting(cluster, make, make_backend)
    watches = count(cluster, "watch pods")
    cluster.until(lambda: count(cluster, "watch pods") >= watches + 2)
    assert count(cluster, "list pods") == 1
    let_run(cluster, future)


def test_a_bookmark_moves_the_version_on(cluster: Cluster, make: Make, make_backend: MakeBackend) -> None:
    """Else a quiet watch would start from a version that the server has forgotten."""
    cluster.hub.bookmark_every = 0.05
    cluster.hub.longest = 1.2
    _, future = booting(cluster, make, make_backend)
    # Something changes that the watch does not show.
    other = ("secrets", "default", "other")
    cluster.do(cluster.store.add, other, {"metadata": {"name": "other"}})
    newest = cluster.store.version

    def last_version() -> int:
        url = [asked.raw for asked in cluster.asked if asked.action == "watch pods"][-1]
        return int(url.partition("resourceVersion=")[2].partition("&")[0])

    cluster.until(lambda: last_version() >= newest)
    assert count(cluster, "list pods") == 1
    let_run(cluster, future)


def test_a_watch_that_is_cut_misses_nothing(cluster: Cluster, make_backend: MakeBackend) -> None:
    """The Pod gets its node while no watch is open. Only the watch tells that, as no runner dials back here."""
    from tests.support.kubernetes_simulator.nodes import ClusterNode

    clock, has_node = Clock(), threading.Event()
    node = make_backend(node_selector=NEVER).boot(request(clock=clock))
    cluster.until(lambda: cluster.hub.open)
    for cuts in (1, 2):
        cluster.cut_connections()
        cluster.until(lambda cuts=cuts: count(cluster, "watch pods") > cuts and cluster.hub.open)
    cluster.faults.on("watch pods", before=lambda _: has_node.wait(PATIENCE))
    cluster.cut_connections()
    cluster.until(lambda: not cluster.hub.open)
    cluster.add_node(ClusterNode("node-2", labels=NEVER))
    assert not clock.has_started.is_set()
    has_node.set()
    assert clock.has_started.wait(PATIENCE)
    assert node.host == "node-2"
    # The new watch has gone on from the last version, so no event needed another list.
    assert count(cluster, "list pods") == 1
    node.stop()


def test_a_pod_that_went_during_a_cut_is_noticed(cluster: Cluster, make_backend: MakeBackend) -> None:
    """The list after the cut does not have it."""
    node = make_backend().boot(request())
    key = cluster.running()
    cluster.faults.on("watch pods", times=math.inf, commit=False, cut=True)
    cluster.cut_connections()
    cluster.do(cluster.nodes.delete, key, 0)
    cluster.compact()
    cluster.faults.clear()
    error = node.ended(PATIENCE)
    assert isinstance(error, BootError)
    assert key[2] in str(error)
    node.stop()


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\n\n", b"{", b"[]\n", b'{"type": 1}\n', b'{"type": "ADDED", "object": 3}\n', b"\xff\xfe\n", b"<html>"],
)
def test_a_watch_of_garbage_is_begun_anew(
    cluster: Cluster, make: Make, make_backend: MakeBackend, garbage: bytes
) -> None:
    cluster.faults.on("watch pods", times=3, garbage=garbage)
    assert make(make_backend()).submit(pow, 2, 10).result(PATIENCE) == 1024


@pytest.mark.parametrize("garbage", [b"", b"[]", b"{", b'{"items": 3, "metadata": 4}', b'{"items": [null, 5, {}]}'])
def test_a_list_of_garbage_is_asked_for_again(
    cluster: Cluster, make: Make, make_backend: MakeBackend, garbage: bytes
) -> None:
    cluster.faults.on("list pods", times=2, garbage=garbage)
    assert make(make_backend()).submit(pow, 2, 10).result(PATIENCE) == 1024


def test_a_watch_that_shows_nothing_more_is_dead(
    cluster: Cluster, make: Make, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half-open connection: no byte and no end. The next watch sees what was missed."""
    monkeypatch.setattr("dragonfly_executor.backends.kubernetes.pod_watch.SILENCE", 0.5)
    cluster.faults.on("watch pods", hang=True)
    assert make(make_backend()).submit(pow, 2, 10).result(PATIENCE) == 1024


@pytest.mark.parametrize("kind", ["too_many", "unavailable", "internal"])
def test_a_server_that_is_busy_is_asked_again(
    cluster: Cluster, make: Make, make_backend: MakeBackend, kind: str
) -> None:
    from tests.support.kubernetes_simulator import statuses

    reply = {
        "too_many": statuses.too_many(0), "unavailable": statuses.unavailable(0), "internal": statuses.internal("etcd"),
    }[kind]  # fmt: skip
    for action in ("create pods", "create secrets", "list pods", "watch pods", "delete pods"):
        cluster.faults.on(action, times=2, reply=reply)
    executor = make(make_backend())
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    executor.shutdown()
    assert cluster.pods() == []
    assert executor.pool.stats().boots_attempted == 1


def test_retry_after_is_kept(cluster: Cluster, make: Make, make_backend: MakeBackend) -> None:
    from tests.support.kubernetes_simulator.statuses import too_many

    times: list[float] = []
    cluster.faults.on("create pods", reply=too_many(1), before=lambda _: times.append(time.monotonic()))
    cluster.faults.on("create pods", nth=2, before=lambda _: times.append(time.monotonic()))
    assert make(make_backend()).submit(pow, 2, 10).result(PATIENCE) == 1024
    assert 1.0 <= times[1] - times[0] < 5.0


@pytest.mark.parametrize("action", ["create pods", "create secrets", "delete pods"])
@pytest.mark.parametrize("commit", [True, False])
def test_a_lost_answer_neither_doubles_nor_leaks_a_pod(
    cluster: Cluster, make: Make, make_backend: MakeBackend, action: str, commit: bool
) -> None:
    """The name was there before the request."""
    cluster.faults.on(action, times=2, cut=True, commit=commit)
    executor = make(make_backend())
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    assert len(cluster.pods()) == 1
    executor.shutdown()
    assert cluster.pods() == cluster.secrets() == []


def test_calls_go_on_while_the_server_is_away(
    cluster: Cluster, make: Make, make_backend: MakeBackend, mailbox: Mailbox, gate: Gate
) -> None:
    """What runs needs no API server. A stop waits for it."""
    executor = make(make_backend())
    future = executor.submit(hold, mailbox.path, gate.path, "done")
    mailbox.read()
    cluster.go_away()
    gate.open()
    assert future.result(PATIENCE) == "done"
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    executor.shutdown(wait=False)
    cluster.until(lambda: any(asked.action == "delete pods" and asked.status is None for asked in cluster.asked))
    cluster.come_back()
    executor.shutdown()
    assert cluster.pods() == []


def test_a_boot_waits_for_a_server_that_is_away(cluster: Cluster, make: Make, make_backend: MakeBackend) -> None:
    cluster.go_away()
    executor = make(make_backend())
    future = executor.submit(pow, 2, 10)
    cluster.until(lambda: count(cluster, "create pods") >= 2)
    cluster.come_back()
    assert future.result(PATIENCE) == 1024
    assert executor.pool.stats().boots_attempted == 1


def test_a_token_that_has_expired_is_read_again(
    cluster: Cluster, make: Make, make_backend: MakeBackend, tmp_path: Path
) -> None:
    """A login has written another one meanwhile. Watches that are open stay; what comes next is refused once."""
    executor = make(make_backend(), max=2, max_concurrency=1)
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    cluster.expire_token()
    (tmp_path / "kubeconfig").write_text(cluster.kubeconfig())
    cluster.cut_connections()
    assert list(executor.map(pow, range(4), [2] * 4)) == [0, 1, 4, 9]
    executor.shutdown()
    assert cluster.pods() == []
    assert 401 in [asked.status for asked in cluster.asked]


def test_a_token_that_expires_while_a_pod_waits_fails_no_boot(
    cluster: Cluster, make: Make, make_backend: MakeBackend, tmp_path: Path
) -> None:
    """The next watch is refused; the list after it reads the new token."""
    executor, future = booting(cluster, make, make_backend)
    cluster.expire_token()
    (tmp_path / "kubeconfig").write_text(cluster.kubeconfig())
    cluster.cut_connections()
    cluster.until(lambda: [asked.status for asked in cluster.asked if asked.action == "list pods"].count(200) == 2)
    let_run(cluster, future)
    assert executor.pool.stats().boots_attempted == 1


def test_a_token_that_has_expired_for_good_is_told(cluster: Cluster, make_backend: MakeBackend) -> None:
    backend = make_backend()
    cluster.expire_token()
    with pytest.raises(BootError, match="Unauthorized") as caught:
        backend.boot(request())
    assert caught.value.final
    assert "The credentials are missing, wrong or expired" in str(caught.value)


def test_a_program_that_prints_tokens_is_run_again_when_its_token_has_expired(
    cluster: Cluster, make: Make, make_backend: MakeBackend, tmp_path: Path
) -> None:
    printer = tmp_path / "printer"
    said = '{\\"status\\": {\\"token\\": \\"$(cat token)\\"}}'
    printer.write_text(f'#!/bin/sh\ncd {tmp_path}\necho run >> runs\necho "{said}"\n')
    printer.chmod(0o755)
    (tmp_path / "token").write_text(cluster.token)
    (tmp_path / "kubeconfig").write_text(cluster.kubeconfig(user=printed_by("./printer")))
    executor = make(make_backend(), max=1, single_use=True)
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    (tmp_path / "token").write_text(cluster.expire_token())
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    executor.shutdown()
    assert cluster.pods() == []
    # Once for each token, whatever the number of requests.
    assert len((tmp_path / "runs").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (["false"], "false exited with status 1"),
        (["sh", "-c", "echo log in first >&2; exit 3"], "sh exited with status 3: log in first"),
        (["/nowhere/program"], "/nowhere/program cannot be run: No such file or directory. Install it"),
        (["echo", "hello"], "echo has printed no client.authentication.k8s.io/v1 ExecCredential"),
        (["echo", '{"status": {}}'], "echo has printed no token"),
        (["echo", '{"status": {"token": "a\\nb"}}'], "echo has printed no token"),
    ],
)
def test_a_program_that_prints_no_token_is_told(
    cluster: Cluster, make_backend: MakeBackend, tmp_path: Path, program: list[str], words: str
) -> None:
    (tmp_path / "kubeconfig").write_text(cluster.kubeconfig(user=printed_by(*program)))
    with pytest.raises(BootError) as caught:
        make_backend().boot(request())
    assert f"no credentials: {words}" in str(caught.value)
    assert caught.value.final


def test_a_boot_that_is_given_up_ends_a_program_that_prints_nothing(
    cluster: Cluster, make_backend: MakeBackend, tmp_path: Path
) -> None:
    began = tmp_path / "began"
    (tmp_path / "kubeconfig").write_text(
        cluster.kubeconfig(user=printed_by("sh", "-c", f"touch {began}; exec sleep 1000"))
    )
    asked, errors = request(), []

    def boot() -> None:
        with pytest.raises(BootError) as caught:
            make_backend().boot(asked)
        errors.append(caught.value)

    thread = threading.Thread(target=boot)
    thread.start()
    until = time.monotonic() + PATIENCE
    while not began.exists() and time.monotonic() < until:
        threading.Event().wait(0.01)
    asked.given_up.set()
    thread.join(2.0)
    assert not thread.is_alive()
    assert errors


def test_every_event_of_the_simulator_fits_the_schemas(cluster: Cluster) -> None:
    """What the checks themselves find: a field with a slip in its name, and a value of another type."""
    from tests.support.kubernetes_simulator.schemas import faults_of

    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "b"}]}}
    assert list(faults_of(pod, "v1", "Pod")) == []
    slipped = json.loads(json.dumps(pod))
    slipped["spec"]["containers"][0]["imagePullpolicy"] = "Always"
    ((sort, text),) = faults_of(slipped, "v1", "Pod")
    assert sort == "unknown"
    assert "imagePullpolicy" in text
    ((sort, _),) = faults_of({**pod, "metadata": {"name": 3}}, "v1", "Pod")
    assert sort == "wrong"
