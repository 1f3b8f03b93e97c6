"""Quantities, and the resources and node selectors of Pods for calls that require something."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor import BootError
from dragonfly_executor.backends.kubernetes.resources import (
    GPU,
    RESOURCES,
    PodSize,
    PodSizes,
    amount,
    check_resources,
    whole_cpus,
)
from dragonfly_executor.core.capacity import UNKNOWN, Capacity, Requirements

GIB = 2**30
REGION = "topology.kubernetes.io/region"


def sizes(resources: Any = RESOURCES, **more: Any) -> PodSizes:
    defaults: dict[str, Any] = {"max_resources": None, "gpu_resource": GPU, "labels": (), "node_selector": None}
    return PodSizes.check(resources, **defaults | more)


def chosen(made: PodSizes, **required: Any) -> PodSize:
    if "labels" in required:
        required["labels"] = frozenset(required["labels"])
    return made.choose(Requirements(**required))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0), ("+1", 1), ("1.5", Fraction(3, 2)), (".5", Fraction(1, 2)), ("500m", Fraction(1, 2)),
        ("1n", Fraction(1, 10**9)), ("2k", 2000), ("1Ki", 1024), ("4Gi", 4 * GIB), ("1Ei", 2**60), ("1e3", 1000),
        ("1E", 10**18), ("1E-1", Fraction(1, 10)),
    ],
)  # fmt: skip
def test_a_quantity_is_an_exact_number(text: str, number: Any) -> None:
    assert amount(text) == number


@pytest.mark.parametrize(
    ("resources", "found", "cpus"),
    [
        (None, {}, None),
        ({"cpu": 2, "memory": "4Gi"}, {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"memory": "4Gi"}}, 2),
        ({"cpu": "500m"}, {"requests": {"cpu": "500m"}}, 1),
        ({"cpu": 1.5}, {"requests": {"cpu": "1.5"}}, 2),
        ({"cpu": "2e0"}, {"requests": {"cpu": "2e0"}}, 2),
        ({"nvidia.com/gpu": 1}, {"requests": {"nvidia.com/gpu": "1"}, "limits": {"nvidia.com/gpu": "1"}}, None),
        ({"limits": {"cpu": "3"}}, {"limits": {"cpu": "3"}}, 3),
        (
            {"requests": {"cpu": "3001m"}, "limits": {"cpu": 8}},
            {"requests": {"cpu": "3001m"}, "limits": {"cpu": "8"}},
            4,
        ),
    ],
)  # fmt: skip
def test_resources(resources: Any, found: Any, cpus: int | None) -> None:
    assert check_resources(resources) == found
    assert whole_cpus(check_resources(resources)) == cpus


@pytest.mark.parametrize("amount", ["4 GiB", "", "x", "-1", "4GiB", "1e", True, None, [1]])
def test_an_amount_that_is_no_quantity(amount: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="must be a quantity"):
        check_resources({"memory": amount})


@pytest.mark.parametrize(
    ("resources", "required", "requests", "limits"),
    [
        # What is not named keeps the backend's resources.
        (RESOURCES, {"cpus": 4}, {"cpu": "4", "memory": "1Gi"}, {"memory": "1Gi"}),
        (RESOURCES, {"memory": 8 * GIB}, {"cpu": "1", "memory": str(8 * GIB)}, {"memory": str(8 * GIB)}),
        (RESOURCES, {"cpus": 0.25, "memory": GIB}, {"cpu": "1", "memory": "1Gi"}, {"memory": "1Gi"}),
        (RESOURCES, {"cpus": 1.25}, {"cpu": "1250m", "memory": "1Gi"}, {"memory": "1Gi"}),
        (RESOURCES, {"gpus": 2}, {"cpu": "1", "memory": "1Gi", GPU: "2"}, {"memory": "1Gi", GPU: "2"}),
        # A request and its limit grow together, and a Pod whose memory has no limit gets none.
        ({"requests": {"cpu": 2}, "limits": {"cpu": 4}}, {"cpus": 3}, {"cpu": "3"}, {"cpu": "4"}),
        ({"requests": {"cpu": 2}, "limits": {"cpu": 4}}, {"cpus": 6}, {"cpu": "6"}, {"cpu": "6"}),
        ({"limits": {"cpu": 4}}, {"cpus": 3}, None, {"cpu": "4"}),
        ({"limits": {"cpu": 4}}, {"cpus": 5}, {"cpu": "5"}, {"cpu": "5"}),
        ({"requests": {"memory": "1Gi"}}, {"memory": 2 * GIB}, {"memory": str(2 * GIB)}, None),
        (
            {"requests": {"memory": "1Gi"}, "limits": {"memory": "4Gi"}}, {"memory": 2 * GIB},
            {"memory": str(2 * GIB)}, {"memory": "4Gi"},
        ),
        # A Pod without resources gets those that are named.
        (None, {"cpus": 2, "memory": GIB}, {"cpu": "2", "memory": str(GIB)}, {"memory": str(GIB)}),
    ],
)  # fmt: skip
def test_a_pod_asks_for_what_calls_require_and_never_for_less_than_the_user(
    resources: Any, required: Any, requests: Any, limits: Any
) -> None:
    found = chosen(sizes(resources), **required)
    assert (found.resources.get("requests"), found.resources.get("limits")) == (requests, limits)
    assert found.node_selector == {}


@given(
    own=st.fixed_dictionaries(
        {}, optional={"cpu": st.integers(1, 9), "memory": st.integers(1, 9 * GIB), GPU: st.integers(1, 3)}
    ),
    cpus=st.floats(0, 20),
    memory=st.integers(0, 20 * GIB),
    gpus=st.integers(0, 4),
)
def test_a_chosen_pod_fits_and_its_limits_are_no_less_than_its_requests(
    own: dict[str, int], cpus: float, memory: int, gpus: int
) -> None:
    made, required = sizes(own), Requirements(cpus=cpus, memory=memory, gpus=gpus)
    found = made.choose(required)
    requests = {name: amount(text) for name, text in found.resources.get("requests", {}).items()}
    limits = {name: amount(text) for name, text in found.resources.get("limits", {}).items()}
    assert all(limit >= requests[name] for name, limit in limits.items())
    assert requests.get(GPU) == limits.get(GPU)
    assert all(requests[name] >= least for name, least in own.items())
    capacity = found.capacity()
    assert capacity is None or required.fit(capacity)


def test_the_users_own_name_of_a_gpu_is_taken() -> None:
    found = chosen(sizes(gpu_resource="amd.com/gpu"), gpus=1)
    assert found.resources["limits"] == {"memory": "1Gi", "amd.com/gpu": "1"}
    assert found.capacity() == Capacity(1.0, 1, GIB)


def test_a_pod_whose_resources_do_not_say_what_it_has_leaves_that_to_the_agent() -> None:
    assert sizes({"cpu": 2}).own.capacity() is None
    assert sizes({"cpu": 2}).own.slots() == 2
    assert sizes(None).own.slots() is None
    assert chosen(sizes({"cpu": 2}), memory=GIB).capacity() == Capacity(2.0, 0, GIB)


# -- labels ------------------------------------------------------------------------------------------------------------

LABELS: dict[str, dict[str, str]] = {
    "eu": {REGION: "eu-west-1"}, "us": {REGION: "us-east-1"}, "ssd": {"disk": "ssd"}, "ours": {},
}  # fmt: skip


def test_a_label_is_a_node_selector() -> None:
    made = sizes(labels=LABELS, node_selector={"arch": "arm64"})
    assert made.own.labels == {"ours"}
    assert made.own.node_selector == {"arch": "arm64"}
    found = chosen(made, labels=["eu", "ssd"])
    assert found.node_selector == {"arch": "arm64", REGION: "eu-west-1", "disk": "ssd"}
    assert found.labels == {"eu", "ssd", "ours"}
    assert made.own.node_selector == {"arch": "arm64"}, "other Pods keep theirs"
    assert found.resources == made.own.resources


def test_all_runners_have_the_labels_of_a_plain_list() -> None:
    made = sizes(labels=["eu", "ours"])
    assert made.own.labels == chosen(made, labels=["eu"]).labels == {"eu", "ours"}
    assert chosen(made, labels=["eu"]).node_selector == {}


def test_no_node_has_two_labels_that_contradict_each_other() -> None:
    with pytest.raises(BootError, match=f"no node has both {REGION}=eu-west-1 and {REGION}=us-east-1") as caught:
        chosen(sizes(labels=LABELS), labels=["eu", "us"])
    assert caught.value.final


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_what_calls_may_require_is_bounded_by_max_resources_alone() -> None:
    assert sizes(labels=LABELS).largest() == Capacity(UNKNOWN, UNKNOWN, UNKNOWN, frozenset(LABELS))
    made = sizes(max_resources={"cpu": "3500m", "memory": "8Gi", GPU: 0})
    assert made.largest() == Capacity(3.5, 0, 8 * GIB)
    assert chosen(made, cpus=3.5, memory=8 * GIB).capacity() == Capacity(3.5, 0, 8 * GIB)
    for required in ({"cpus": 4}, {"gpus": 1}, {"memory": 9 * GIB}, {"labels": {"eu"}}):
        with pytest.raises(BootError, match="no Pod of this backend can have what the calls require") as caught:
            chosen(made, **required)
        assert caught.value.final


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"max_resources": {"cpu": "500m"}}, ValueError, r"max_resources\['cpu'\] is less than resources\['cpu'\]"),
        ({"max_resources": {"cpu": "x"}}, ValueError, r"max_resources\['cpu'\] must be a quantity"),
        ({"max_resources": {"amd.com/gpu": 1}}, ValueError, f"may have cpu, memory and {GPU}, and not 'amd.com/gpu'"),
        ({"max_resources": 3}, TypeError, "max_resources must map names of resources to amounts"),
        ({"gpu_resource": ""}, TypeError, "gpu_resource must be the name of a resource"),
        ({"labels": "eu"}, TypeError, "labels must be several texts"),
        ({"labels": {"eu": "west"}}, TypeError, r"labels\['eu'\] must map texts to texts"),
        ({"labels": {"": {}}}, ValueError, "labels must be texts that are not empty"),
        (
            {"labels": {"eu": {"zone": "a"}}, "node_selector": {"zone": "b"}},
            ValueError,
            r"labels\['eu'\] has zone=a, and node_selector zone=b",
        ),
    ],
)
def test_arguments_that_contradict_each_other_or_are_none_are_refused(
    arguments: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        sizes(**arguments)
