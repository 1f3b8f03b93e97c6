"""The Pods that an API server shows, in words: for the errors of boots, and for people who wait."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor.backends.kubernetes.answers import AnswerKind, APIAnswer, classify, retry_after
from dragonfly_executor.backends.kubernetes.pod import Pod
from dragonfly_executor.runner import exit_codes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def pod(node: str = "node-1", deleted: bool = False, **status: Any) -> Pod:
    metadata = {"name": "p", "uid": "u", **({"deletionTimestamp": "2026-11-29T18:00:00Z"} if deleted else {})}
    return Pod.parse({"metadata": metadata, "spec": {"nodeName": node} if node else {}, "status": status})


def waiting(reason: str, message: str = "") -> list[dict[str, Any]]:
    return [{"name": "runner", "state": {"waiting": {"reason": reason, "message": message}}}]


def terminated(code: int, reason: str = "Error", **more: Any) -> list[dict[str, Any]]:
    return [{"name": "runner", "state": {"terminated": {"exitCode": code, "reason": reason, **more}}}]


def condition(kind: str, status: str, reason: str, message: str = "") -> list[dict[str, Any]]:
    return [{"type": kind, "status": status, "reason": reason, "message": message}]


def text_of(found: Pod) -> str:
    failure = found.failure()
    assert failure is not None
    return failure.text


def test_an_unschedulable_pod_waits() -> None:
    message = "0/3 nodes are available: 1 Insufficient cpu,\n 2 node(s) had untolerated taint"
    found = pod("", conditions=condition("PodScheduled", "False", "Unschedulable", message), phase="Pending")
    assert found.failure() is None
    assert not found.is_scheduled
    assert found.standing() == (
        "Pod p is Pending (Unschedulable): 0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint"
    )


def test_a_pod_that_starts_is_waited_for() -> None:
    found = pod(containerStatuses=waiting("ContainerCreating"), phase="Pending")
    assert found.failure() is None
    assert found.standing() == "Pod p is Pending on node-1: runner waits (ContainerCreating)"


@pytest.mark.parametrize(
    ("reason", "message", "is_hopeless"),
    [
        ("ErrImagePull", "failed to resolve reference: x: not found", True),
        ("ImagePullBackOff", "Back-off pulling image: pull access denied, repository does not exist", True),
        ("ErrImagePull", "dial tcp 203.0.113.5:443: i/o timeout", False),
        ("ImagePullBackOff", "Back-off pulling image: toomanyrequests: You have reached your pull rate limit", False),
        ("InvalidImageName", 'couldn\'t parse image name "a b"', True),
        ("ErrImageNeverPull", "Container image is not present with pull policy of Never", True),
        ("CreateContainerConfigError", 'secret "p" not found', False),
        ("CreateContainerConfigError", 'secret "credentials" not found', True),
        ("CreateContainerConfigError", "couldn't find key a in ConfigMap", True),
        ("CreateContainerError", "context deadline exceeded", True),
        ("ContainerCreating", "", False),
        ("PodInitializing", "", False),
    ],
)
def test_what_a_container_waits_for(reason: str, message: str, is_hopeless: bool) -> None:
    """The runner's own Secret may come a moment late, and a registry may be away for a moment."""
    failure = pod(phase="Pending", containerStatuses=waiting(reason, message)).failure()
    assert (failure is not None) == is_hopeless
    if failure is not None:
        assert failure.final
        assert failure.phase == "start"
        assert reason in failure.text
        assert message in failure.text


def test_a_failed_init_container_is_named() -> None:
    statuses = [{"name": "fetch", "state": {"terminated": {"exitCode": 3, "reason": "Error"}}}]
    assert "its container fetch exited with code 3" in text_of(pod(phase="Failed", initContainerStatuses=statuses))


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"containerStatuses": terminated(137, "OOMKilled")}, "used more memory than its limit (OOMKilled"),
        ({"containerStatuses": terminated(exit_codes.UNREACHABLE)}, "it could not reach the parent: does host="),
        ({"containerStatuses": terminated(exit_codes.REFUSED)}, "the parent refused it"),
        ({"containerStatuses": terminated(127)}, "the command that starts the runner was not found"),
        ({"containerStatuses": terminated(128, "StartError")}, "exited with code 128 (StartError)"),
        ({"containerStatuses": terminated(1)}, "is dragonfly_executor installed in the image"),
        ({"containerStatuses": terminated(42)}, "its container runner exited with code 42"),
        ({"reason": "Evicted", "message": "The node was low on resource: memory."}, "was evicted by its node: ask for"),
        ({"reason": "DeadlineExceeded"}, "reached its max_lifetime (activeDeadlineSeconds)"),
        ({"reason": "OutOfcpu"}, "was refused by its node, which has too few CPUs left"),
        ({"reason": "SomethingNew", "message": "of tomorrow"}, "ended as SomethingNew (of tomorrow)"),
        (
            {"conditions": condition("DisruptionTarget", "True", "PreemptionByScheduler", "for pod y")},
            "was preempted by a Pod of higher priority (for pod y)",
        ),
        (
            {"conditions": condition("DisruptionTarget", "True", "EvictionByEvictionAPI")},
            "was evicted, as by kubectl drain",
        ),
        ({"conditions": condition("DisruptionTarget", "True", "New")}, "was disrupted (New)"),
        ({}, "Pod p is Failed"),
    ],
)
def test_an_end_says_what_happened_and_what_to_do(status: dict[str, Any], words: str) -> None:
    assert words in text_of(pod(phase="Failed", **status))


def test_a_pod_that_somebody_deletes() -> None:
    assert text_of(pod(deleted=True, phase="Running")) == (
        "Pod p was deleted, not by its pool: kubectl get events tells more"
    )


def test_a_disruption_counts_more_than_the_exit_that_it_led_to() -> None:
    found = pod(
        phase="Failed",
        conditions=condition("DisruptionTarget", "True", "DeletionByTaintManager"),
        containerStatuses=terminated(143),
    )
    assert "its node has a taint" in text_of(found)


def test_the_end_of_the_output_is_shown() -> None:
    failure = pod(phase="Failed", containerStatuses=terminated(1, message="Traceback\nboom\n")).failure()
    assert failure is not None
    assert failure.output == "Traceback\nboom"
    assert failure.phase == "connect"


@given(JSON)
def test_any_object_is_a_pod_of_some_kind(said: Any) -> None:
    """Nothing that a server says ends the thread that reads it."""
    found = Pod.parse(said)
    found.standing()
    found.failure()
    assert found.end()


@given(st.dictionaries(st.sampled_from(["conditions", "containerStatuses", "reason", "phase", "message"]), JSON))
def test_any_status_can_be_read(status: Any) -> None:
    found = Pod.parse({"metadata": {"name": "p"}, "spec": {"nodeName": "n"}, "status": status})
    found.standing()
    found.failure()
    found.exit_code()


# -- answers -----------------------------------------------------------------------------------------------------------


def answer(code: int, reason: str = "", message: str = "no", **more: Any) -> APIAnswer:
    body = {"kind": "Status", "code": code, "reason": reason, "message": message}
    return APIAnswer(code, json.dumps(body).encode(), **more)


@pytest.mark.parametrize(
    ("given_answer", "kind"),
    [
        (answer(201), AnswerKind.OK),
        (answer(409, "AlreadyExists"), AnswerKind.EXISTS),
        (answer(409, "Conflict"), AnswerKind.BUSY),
        (answer(404, "NotFound"), AnswerKind.NOT_FOUND),
        (answer(410, "Expired"), AnswerKind.EXPIRED),
        (answer(410, "Gone"), AnswerKind.EXPIRED),
        (answer(429, "TooManyRequests"), AnswerKind.BUSY),
        (answer(500, "InternalError"), AnswerKind.AMBIGUOUS),
        (answer(503, "ServiceUnavailable"), AnswerKind.AMBIGUOUS),
        (answer(504, "Timeout"), AnswerKind.AMBIGUOUS),
        (answer(401, "Unauthorized"), AnswerKind.UNAUTHORIZED),
        (answer(403, "Forbidden"), AnswerKind.FORBIDDEN),
        (answer(403, "Forbidden", 'pods "x" is forbidden: exceeded quota: compute'), AnswerKind.QUOTA),
        (answer(422, "Invalid"), AnswerKind.FATAL),
        (answer(400, "BadRequest"), AnswerKind.FATAL),
        (APIAnswer(200, b"<html>"), AnswerKind.OK),
        (APIAnswer(418, b"\xff\xfe"), AnswerKind.FATAL),
        (APIAnswer(0, failure="cut"), AnswerKind.AMBIGUOUS),
        (APIAnswer(0, failure="refused", sent=False), AnswerKind.UNSENT),
    ],
)
def test_each_answer_has_a_kind(given_answer: APIAnswer, kind: AnswerKind) -> None:
    assert classify(given_answer) is kind


@given(st.integers(0, 999), st.binary(max_size=60))
def test_any_answer_can_be_read(status: int, body: bytes) -> None:
    found = APIAnswer(status, body)
    assert isinstance(classify(found), AnswerKind)
    assert found.text()


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("", None), ("3", 3.0), ("999999", 60.0), ("-1", None), ("soon", None), ("1.5", None), ("²", None)],
)
def test_retry_after(header: str, seconds: float | None) -> None:
    assert retry_after(answer(429, retry_after=header)) == seconds
