"""The simulated cluster answers as an API server does: what it refuses, in which words, and what its watches show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.kubernetes_simulator.simulator import Cluster

pytestmark = pytest.mark.engine

PODS = "/api/v1/namespaces/media/pods"
SECRETS = "/api/v1/namespaces/media/secrets"


class Client:
    """Asks plainly."""

    def __init__(self, cluster: Cluster) -> None:
        import ssl

        import httpx2

        context = ssl.create_default_context(cadata=cluster.certificate.decode())
        self.http = httpx2.Client(base_url=cluster.url, verify=context, timeout=20.0)
        self.token = cluster.token

    def ask(self, method: str, path: str, body: Any = None, **params: str) -> tuple[int, dict[str, Any]]:
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = self.http.request(method, path, params=params, json=body, headers=headers)
        found: dict[str, Any] = answer.json()
        return answer.status_code, found

    def watch(self, **params: str) -> list[dict[str, Any]]:
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = self.http.get(PODS, params={"watch": "1", **params}, headers=headers)
        return [json.loads(line) for line in answer.text.splitlines()]

    def close(self) -> None:
        self.http.close()


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with closing(Client(cluster)) as client:
        yield client


def pod(name: str = "a", **spec: Any) -> dict[str, Any]:
    container = {"name": "runner", "image": "registry.example/app:slow"}
    whole = {"containers": [container], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"l": "1"}}, "spec": whole}


def test_an_unknown_token_is_unauthorized(client: Client) -> None:
    client.token = "other"
    status, body = client.ask("GET", PODS)
    assert (status, body["kind"], body["reason"]) == (401, "Status", "Unauthorized")


def test_a_right_that_is_missing_is_forbidden(client: Client) -> None:
    status, body = client.ask("GET", f"{SECRETS}/a")
    assert status == 403
    assert body["message"] == (
        'secrets is forbidden: User "system:serviceaccount:media:app" cannot get resource "secrets" in API group "" in '
        'the namespace "media"'
    )


def test_an_object_is_stored_with_what_a_server_adds(client: Client) -> None:
    status, made = client.ask("POST", PODS, pod())
    assert status == 201
    assert made["metadata"]["uid"]
    assert made["status"]["phase"] == "Pending"
    assert client.ask("GET", f"{PODS}/a")[1]["metadata"]["uid"] == made["metadata"]["uid"]
    status, body = client.ask("POST", PODS, pod())
    assert (status, body["reason"], body["message"]) == (409, "AlreadyExists", 'pods "a" already exists')
    status, body = client.ask("GET", f"{PODS}/b")
    assert (status, body["reason"], body["message"]) == (404, "NotFound", 'pods "b" not found')


def test_items_of_a_list_do_not_say_what_they_are(client: Client) -> None:
    client.ask("POST", PODS, pod())
    _, body = client.ask("GET", PODS, labelSelector="l=1")
    (item,) = body["items"]
    assert not {"kind", "apiVersion"} & set(item)
    assert client.ask("GET", PODS, labelSelector="l=2")[1]["items"] == []


def test_strict_validation_refuses_an_unknown_field_and_otherwise_it_is_ignored(
    cluster: Cluster, client: Client
) -> None:
    status, body = client.ask("POST", PODS, pod(hostNetwrok=True), fieldValidation="Strict")
    assert status == 400
    assert "strict decoding error" in body["message"]
    assert client.ask("POST", PODS, pod(hostNetwrok=True))[0] == 201
    # Both are noted: no request of the backend may have such a field.
    assert len(cluster.api.violations) >= 2
    cluster.api.violations.clear()


def test_an_unknown_parameter_is_noted(cluster: Cluster, client: Client) -> None:
    client.ask("GET", PODS, labelselector="l=1")
    assert cluster.api.violations == ["list pods: unknown query parameters ['labelselector']"]
    cluster.api.violations.clear()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"metadata": {"name": "A"}}, "metadata.name"),
        ({"metadata": {"name": "a", "labels": {"x": "a b"}}}, "a valid label"),
        ({"spec": {"containers": [{"name": "r", "image": ""}]}}, "spec.containers[0].image: Required value"),
        ({"spec": {**pod()["spec"], "activeDeadlineSeconds": 0}}, "spec.activeDeadlineSeconds"),
        ({"spec": {**pod()["spec"], "tolerations": [{"operator": "Equal"}]}}, "spec.tolerations[0].operator"),
    ],
)
def test_a_value_that_breaks_a_rule_is_invalid(client: Client, change: Any, words: str) -> None:
    status, body = client.ask("POST", PODS, {**pod(), **change})
    assert (status, body["reason"]) == (422, "Invalid")
    assert words in body["message"]


def test_a_deletion_is_for_one_uid_and_can_only_be_hurried(client: Client) -> None:
    client.ask("POST", PODS, pod())
    other = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "other"}}
    status, body = client.ask("DELETE", f"{PODS}/a", other)
    assert (status, body["reason"]) == (409, "Conflict")
    assert "Precondition failed: UID in precondition: other" in body["message"]


def test_a_pod_owns_its_secret(cluster: Cluster, client: Client) -> None:
    _, made = client.ask("POST", PODS, pod())
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": made["metadata"]["uid"]}
    metadata = {"name": "a", "ownerReferences": [owner]}
    client.ask("POST", SECRETS, {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"k": "YQ=="}})
    assert len(cluster.secrets()) == 1
    options = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
    assert client.ask("DELETE", f"{PODS}/a", options)[0] == 200
    cluster.until(lambda: not cluster.secrets())


def test_a_watch_shows_what_came_after_a_version(client: Client) -> None:
    _, before = client.ask("GET", PODS)
    version = before["metadata"]["resourceVersion"]
    client.ask("POST", PODS, pod("a"))
    client.ask("POST", PODS, pod("b"))
    events = client.watch(resourceVersion=version, timeoutSeconds="1", labelSelector="l=1")
    assert [event["object"]["metadata"]["name"] for event in events if event["type"] == "ADDED"] == ["a", "b"]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
    assert versions == sorted(set(versions))
    assert client.watch(resourceVersion=str(versions[-1]), timeoutSeconds="1") == []


def test_a_version_of_the_past_or_of_the_future(cluster: Cluster, client: Client) -> None:
    cluster.compact()
    (event,) = client.watch(resourceVersion="1")
    assert event["type"] == "ERROR"
    assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")
    status, body = client.ask("GET", PODS, watch="1", resourceVersion="999999")
    assert (status, body["reason"]) == (504, "Timeout")


def test_a_bookmark_has_only_a_version(cluster: Cluster, client: Client) -> None:
    cluster.hub.bookmark_every = 0.1
    version = str(cluster.store.version)
    events = client.watch(resourceVersion=version, timeoutSeconds="1", allowWatchBookmarks="true")
    assert {event["type"] for event in events} == {"BOOKMARK"}
    assert events[0]["object"]["metadata"]["resourceVersion"] == version
    assert client.watch(resourceVersion=version, timeoutSeconds="1") == []


def test_what_may_i_do(client: Client) -> None:
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

    def may(verb: str, resource: str) -> bool:
        attributes = {"namespace": "media", "verb": verb, "resource": resource}
        body = {
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }  # fmt: skip
        status, answer = client.ask("POST", path, body)
        assert status == 201
        return bool(answer["status"]["allowed"])

    assert may("create", "pods")
    assert not may("get", "secrets")


def test_the_deviations_are_written_down() -> None:
    from tests.support.kubernetes_simulator.deviations import BOOKMARK, SCHEMAS, SIMULATOR

    assert all(reason for reason, _ in SCHEMAS)
    assert all((BOOKMARK, *SIMULATOR))
