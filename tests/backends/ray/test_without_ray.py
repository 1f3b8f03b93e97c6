"""What the Ray backend decides by itself: the options of actors, and the words about an actor that waits."""

from __future__ import annotations

from typing import Any

import pytest

from dragonfly_executor import BootError
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
        ({"num_cpus": 1}, "other work uses CPU=1 on the 2 of 2 Ray nodes that have it"),
        ({"num_cpus": 3}, "other work uses CPU=3 on the 1 of 2 Ray nodes that have it"),
        ({"num_cpus": 8}, "none of the 2 Ray nodes has CPU=8"),
        ({"num_gpus": 1, "resources": {"eu": 0.5}}, "other work uses GPU=1, eu=0.5 on the 1 of 2 Ray nodes"),
        ({"num_gpus": 1, "memory": 5}, "none of the 2 Ray nodes has GPU=1, memory=5"),
        ({"num_cpus": 1, "label_selector": {"region": "us"}}, "none of the 2 Ray nodes has CPU=1, the label region=us"),
        ({"num_cpus": 1, "label_selector": {"region": "!us"}}, "on the 2 of 2 Ray nodes"),
        ({"num_cpus": 1, "label_selector": {"region": "in(eu, us)"}}, "on the 2 of 2 Ray nodes"),
    ],
)
def test_an_actor_that_waits_says_why(options: dict[str, Any], text: str) -> None:
    standing = NODES.standing(options, 3)
    assert text in standing
    assert standing.endswith("; 3 actors wait; the autoscaler rests")


def test_a_cluster_without_nodes_says_so() -> None:
    assert ClusterLook([], []).standing({"num_cpus": 1}, 1) == "the Ray cluster has no node; 1 actor waits"
