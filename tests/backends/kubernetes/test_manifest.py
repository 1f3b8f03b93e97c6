"""The manifests of Pods and Secrets, and the checks of what a user adds to them."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor.backends.kubernetes.manifest import (
    PodBlueprint,
    PodOwner,
    check_template,
    check_tolerations,
    label_value,
    template_resources,
)
from dragonfly_executor.backends.kubernetes.resources import check_texts

NAME = "dragonfly-p-0123"
PLAIN = PodBlueprint("image:1", "python3", {}, {}, {}, (), "", 60.0, False, 20.0, {}, "b1")


def runner_of(blueprint: PodBlueprint) -> dict[str, Any]:
    found: dict[str, Any] = blueprint.pod(NAME, "p", None, {})["spec"]["containers"][0]
    return found


def test_a_pod_is_ended_by_the_cluster_and_never_restarted() -> None:
    spec = PLAIN.pod(NAME, "p", None, {})["spec"]
    assert spec["restartPolicy"] == "Never"
    assert spec["activeDeadlineSeconds"] == 60
    assert spec["automountServiceAccountToken"] is False


def test_the_parents_pod_owns_the_pod_and_the_pod_owns_the_secret() -> None:
    pod = PLAIN.pod(NAME, "p", PodOwner("app", "u1"), {})
    assert pod["metadata"]["ownerReferences"] == [{"apiVersion": "v1", "kind": "Pod", "name": "app", "uid": "u1"}]
    secret = PLAIN.secret(NAME, "p", "u2", "described")
    assert [owner["uid"] for owner in secret["metadata"]["ownerReferences"]] == ["u2"]
    assert secret["immutable"] is True
    assert base64.b64decode(secret["data"]["parent"]) == b"described"


def test_the_parents_description_is_only_in_the_secret() -> None:
    (entry,) = runner_of(PLAIN)["env"]
    reference = {"name": NAME, "key": "parent", "optional": False}
    assert entry == {"name": "DRAGONFLY_PARENT", "valueFrom": {"secretKeyRef": reference}}


def test_the_command_replaces_the_entrypoint_or_is_its_arguments() -> None:
    command = PLAIN.command()
    assert command[:2] == ["python3", "-P"]
    assert command[-4:] == ["-m", "dragonfly_executor.runner", "--failsafe", "20"]
    assert runner_of(PLAIN)["command"] == command
    kept = runner_of(PLAIN._replace(keep_entrypoint=True))
    assert "command" not in kept
    assert kept["args"] == command


def test_a_command_in_the_template_gets_the_runners() -> None:
    template = {"spec": {"containers": [{"name": "log"}, {"name": "runner", "command": ["tini", "--"], "args": ["x"]}]}}
    blueprint = PLAIN._replace(template=template)
    containers = blueprint.pod(NAME, "p", None, {})["spec"]["containers"]
    assert [container["name"] for container in containers] == ["runner", "log"]
    assert containers[0]["command"] == ["tini", "--"]
    assert containers[0]["args"] == blueprint.command()


def test_the_template_stays_where_the_backend_says_nothing() -> None:
    template: dict[str, Any] = {
        "metadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}},
        "spec": {
            "nodeSelector": {"zone": "1"}, "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "runner", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}],
        },
    }  # fmt: skip
    blueprint = PLAIN._replace(
        template=template, env={"B": "3"}, node_selector={"gpu": "y"},
        tolerations=({"key": "k", "operator": "Exists"},), service_account="worker",
    )  # fmt: skip
    pod = blueprint.pod(NAME, "a pool", None, {"mine": "c"})
    assert pod["metadata"]["labels"]["team"] == "a"
    assert pod["metadata"]["labels"]["dragonfly-executor/pool"] == "a-pool"
    assert pod["metadata"]["annotations"] == {"note": "b", "mine": "c"}
    assert pod["spec"]["nodeSelector"] == {"zone": "1", "gpu": "y"}
    assert len(pod["spec"]["tolerations"]) == 2
    assert pod["spec"]["serviceAccountName"] == "worker"
    assert "automountServiceAccountToken" not in pod["spec"]
    values = {entry["name"]: entry.get("value") for entry in pod["spec"]["containers"][0]["env"]}
    assert values == {"A": "1", "B": "3", "DRAGONFLY_PARENT": None}
    # The user's own objects are left as they are.
    assert template["spec"]["nodeSelector"] == {"zone": "1"}
    assert len(template["spec"]["containers"][0]["env"]) == 2


def test_resources_of_the_template_hold_where_the_backend_has_none() -> None:
    """Claims of devices stay in any case."""
    container = {"name": "runner", "resources": {"limits": {"cpu": "4"}, "claims": [{"name": "fpga"}]}}
    template = {"spec": {"containers": [{"name": "log", "resources": {"limits": {"cpu": 1}}}, container]}}
    assert template_resources(template) == {"limits": {"cpu": "4"}}
    assert template_resources({}) == template_resources({"spec": {"containers": [{"name": "log"}]}}) == {}
    assert runner_of(PLAIN._replace(template=template))["resources"] == container["resources"]
    raised = PLAIN._replace(template=template, resources={"requests": {"cpu": "8"}, "limits": {"cpu": "8"}})
    assert runner_of(raised)["resources"] == {**raised.resources, "claims": [{"name": "fpga"}]}


@pytest.mark.parametrize("field", ["restartPolicy", "activeDeadlineSeconds", "nodeName"])
def test_a_template_may_not_set_what_the_backend_relies_on(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        check_template({"spec": {field: "x"}})


@pytest.mark.parametrize("template", [[], {"spec": []}, {"metadata": "x"}, {"spec": {"containers": {}}}])
def test_a_template_of_another_type(template: Any) -> None:
    with pytest.raises(TypeError, match="pod_template"):
        check_template(template)


def test_a_template_with_a_field_too_many() -> None:
    with pytest.raises(ValueError, match="status"):
        check_template({"status": {}})


def test_arguments_of_another_type() -> None:
    with pytest.raises(TypeError, match="tolerations"):
        check_tolerations({"key": "k"})
    with pytest.raises(TypeError, match="node_selector"):
        check_texts({"a": 1}, "node_selector")  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="env"):
        check_texts("x", "env")  # type: ignore[arg-type]


@given(st.text())
def test_any_name_of_a_pool_gives_a_valid_label(pool: str) -> None:
    assert re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", label_value(pool))
