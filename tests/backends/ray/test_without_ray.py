"""What the Ray backend decides by itself: the options of actors, and the words about an actor that waits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dragonfly_executor import BootError
from dragonfly_executor.backends.ray.autoscaler import words_of_report, words_of_status
from dragonfly_executor.backends.ray.cluster_look import ClusterLook
from dragonfly_executor.backends.ray.options import capacity_of, meet, slots_of
from dragonfly_executor.core.capacity import Requirements

NODES = ClusterLook(
    [{"CPU": 2.0, "memory": 8e9}, {"CPU": 4.0, "GPU": 1.0, "eu": 1.0}], [{}, {"region": "eu"}], "the autoscaler rests"
)


@pytest.mark.parametrize(
    ("options", "required", "expected"),
    [
        ({"num_cpus": 1}, Requirements(cpus=2.5), {"num_cpus": 3}),
        ({"num_cpus": 0}, Requirements(cpus=0.5), {"num_cpus": 0.5}),
        ({"num_cpus": 4}, Requirements(cpus=2), {"num_cpus": 4}),
        ({"num_gpus": 0.5}, Requirements(gpus=1), {"num_gpus": 1}),
        ({"num_gpus": 4}, Requirements(gpus=1), {"num_gpus": 4}),
        ({"memory": 10}, Requirements(memory=5), {"memory": 10}),
        ({}, Requirements(memory=5), {"memory": 5}),
        ({"resources": {"eu": 1}}, Requirements(labels=frozenset({"eu"})), {"resources": {"eu": 1}}),
        ({}, Requirements(labels=frozenset({"eu"})), {"resources": {"eu": 0.001}}),
        ({}, Requirements(labels=frozenset({"all"})), {}),
        ({}, Requirements(labels=frozenset({"region=eu"})), {"label_selector": {"region": "eu"}}),
    ],
)
def test_an_actor_asks_for_what_calls_require_and_for_no_less_than_before(
    options: dict[str, Any], required: Requirements, expected: dict[str, Any]
) -> None:
    before = dict(options)
    found = meet(options, required, frozenset({"all"}))
    assert found == expected
    assert options == before
    wanted = Requirements(required.cpus, required.gpus, required.memory, required.labels - {"all"})
    assert wanted.fit(capacity_of(found))


def test_a_label_that_contradicts_the_selector_fails_the_boot_for_good() -> None:
    with pytest.raises(BootError, match="RayBackend has label_selector region='us': leave it out") as caught:
        meet({"label_selector": {"region": "us"}}, Requirements(labels=frozenset({"region=eu"})), frozenset())
    assert caught.value.final


def test_slots_are_cpus_rounded_down() -> None:
    assert [slots_of({"num_cpus": cpus}) for cpus in (0, 0.5, 1, 2.5, None)] == [1, 1, 1, 2, 1]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_cpus": 1}, "2 of 2 Ray nodes have CPU=1, and other work uses it"),
        ({"num_cpus": 3}, "1 of 2 Ray nodes has CPU=3, and other work uses it"),
        ({"num_cpus": 8}, "none of the 2 Ray nodes has CPU=8"),
        ({"num_gpus": 1, "resources": {"eu": 0.5}}, "1 of 2 Ray nodes has GPU=1, eu=0.5, and other work uses it"),
        ({"num_gpus": 1, "memory": 5}, "none of the 2 Ray nodes has GPU=1, memory=5"),
        ({"num_cpus": 1, "label_selector": {"region": "us"}}, "none of the 2 Ray nodes has CPU=1, the label region=us"),
        ({"num_cpus": 1, "label_selector": {"region": "!us"}}, "2 of 2 Ray nodes have CPU=1, the label region="),
        ({"num_cpus": 1, "label_selector": {"region": "in(eu, us)"}}, "2 of 2 Ray nodes have CPU=1, the label region="),
    ],
)
def test_an_actor_that_waits_says_why(options: dict[str, Any], text: str) -> None:
    standing = NODES.standing(options, 3)
    assert text in standing
    assert standing.endswith("; 3 actors wait; the autoscaler rests")


def test_a_cluster_without_nodes_says_so() -> None:
    assert ClusterLook([], []).standing({"num_cpus": 1}, 1) == "the Ray cluster has no node; 1 actor waits"


def test_the_first_autoscaler_s_report_in_words() -> None:
    report = {
        "pending_launches": {"gpu": 2},
        "pending_nodes": [["10.0.0.8", "cpu", "setting-up"]],
        "node_availability_summary": {
            "node_availabilities": {
                "spot": {
                    "is_available": False,
                    "unavailable_node_information": {"category": "Quota", "description": "no vCPUs left" + "!" * 500},
                },
                "cpu": {"is_available": True, "unavailable_node_information": None},
            }
        },
    }
    starts, failed = words_of_report(report)
    assert starts == "the autoscaler starts nodes: 2 of type gpu, cpu at 10.0.0.8 (setting-up)"
    assert failed.startswith("the autoscaler could not start a node of type spot (Quota: no vCPUs left!")
    assert len(failed) < 300
    assert [*words_of_report({"pending_launches": {}, "pending_nodes": [], "node_availability_summary": {}})] == []


def test_the_second_autoscaler_s_status_in_words() -> None:
    status = SimpleNamespace(
        pending_launches=[SimpleNamespace(count=2, ray_node_type_name="gpu")],
        pending_nodes=[SimpleNamespace(ray_node_type_name="cpu", ip_address="10.0.0.8")],
        failed_launches=[SimpleNamespace(ray_node_type_name="spot", details="no vCPUs left")],
    )
    assert [*words_of_status(status)] == [
        "the autoscaler starts nodes: 2 of type gpu, cpu at 10.0.0.8",
        "the autoscaler could not start a node of type spot (no vCPUs left)",
    ]
    status = SimpleNamespace(pending_launches=[], pending_nodes=[], failed_launches=[])
    assert [*words_of_status(status)] == []


def test_the_doctor_is_told_which_nodes_have_what_an_actor_asks_for() -> None:
    assert NODES.census({"num_cpus": 3}) == "1 of 2 Ray nodes has CPU=3; the autoscaler rests"
    assert ClusterLook([], []).census({"num_cpus": 3}) == "the Ray cluster has no node"
