"""The option `requires`, and calls that no runner can take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from dragonfly_executor import CallOptions, DragonflyExecutor, LocalBackend, RequirementsError
from dragonfly_executor.core.capacity import Capacity, Requirements


@pytest.mark.parametrize(
    ("given", "required"),
    [
        (None, None),
        ({}, None),
        ({"cpus": 0, "gpus": 0, "memory": 0, "labels": []}, None),
        ({"cpus": 2}, Requirements(cpus=2)),
        ({"cpus": 0.5, "gpus": 1}, Requirements(cpus=0.5, gpus=1)),
        ({"memory": "8GiB"}, Requirements(memory=8 * 2**30)),
        ({"label": "eu"}, Requirements(labels=frozenset({"eu"}))),
        ({"label": "eu", "labels": ("fast", "eu")}, Requirements(labels=frozenset({"eu", "fast"}))),
        ({"labels": "eu"}, Requirements(labels=frozenset({"eu"}))),
    ],
)
def test_a_call_may_require_several_things(given: Any, required: Requirements | None) -> None:
    options = CallOptions(requires=given)
    assert options.requires == required
    assert options.change({"timeout": 3}).requires == required
    assert options.limits().requirements == required


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (2, TypeError, "requires must be a mapping, such as {.*}, not int"),
        ({"cpu": 2}, TypeError, "requires has no 'cpu'; it may have cpus, gpus, memory, label, labels"),
        ({"cpus": "2"}, TypeError, r"requires\['cpus'\] must be a number, not str"),
        ({"cpus": -1}, ValueError, r"requires\['cpus'\] must be at least 0, not -1"),
        ({"cpus": float("nan")}, ValueError, r"requires\['cpus'\] must be finite"),
        ({"gpus": 0.5}, TypeError, r"requires\['gpus'\] must be a whole number, not float"),
        ({"gpus": -1}, ValueError, r"requires\['gpus'\] must be at least 0, not -1"),
        ({"memory": "much"}, ValueError, r"requires\['memory'\] must be a number and a unit"),
        ({"memory": 1.5}, TypeError, r"requires\['memory'\] must be a whole number of bytes or text"),
        ({"label": 3}, TypeError, r"requires\['label'\] must be text, or several texts, not int"),
        ({"labels": [3]}, TypeError, r"requires\['labels'\] must be text, or several texts, not int"),
        ({"labels": b"eu"}, TypeError, r"requires\['labels'\] must be text, or several texts, not bytes"),
        ({"label": ""}, ValueError, r"requires\['label'\] must not be empty"),
    ],
)
def test_requirements_that_make_no_sense_are_refused_where_they_are_given(
    given: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        CallOptions(requires=given)


class SmallBackend(LocalBackend):
    """A backend that knows what its runners can have."""

    def __init__(self) -> None:
        super().__init__(labels={"eu"})

    def capacities(self) -> Sequence[Capacity]:
        return (
            Capacity(2.0, 0, 4 * 2**30, frozenset({"eu"})),
            Capacity(4.0, 1, 2**30, frozenset({"us"})),
        )


@pytest.mark.parametrize(
    ("requires", "nearest"),
    [
        ({"cpus": 8}, "4 CPUs, 1 GPU, 1 GiB of memory, the label us"),
        ({"gpus": 1, "memory": "2GiB"}, "4 CPUs, 1 GPU, 1 GiB of memory, the label us"),
        ({"gpus": 1, "label": "eu"}, "4 CPUs, 1 GPU, 1 GiB of memory, the label us|2 CPUs, 4 GiB of memory"),
        ({"memory": "5GiB"}, "2 CPUs, 4 GiB of memory, the label eu"),
    ],
)
def test_what_no_runner_can_have_fails_at_submit_and_names_the_nearest(requires: dict[str, Any], nearest: str) -> None:
    with DragonflyExecutor(backend=SmallBackend()) as ex:
        view = ex.options(requires=requires)
        with pytest.raises(RequirementsError, match=f"the nearest has ({nearest}).*: require less") as info:
            view.submit(int)
        assert isinstance(info.value, ValueError)
        assert ex.pool.stats().boots_attempted == 0


@pytest.mark.parametrize("requires", [{"cpus": 1}, {"memory": "200MiB"}, {"label": "eu"}])
def test_what_a_runner_can_have_is_accepted(requires: dict[str, Any]) -> None:
    with DragonflyExecutor(backend=SmallBackend()) as ex:
        assert ex.options(requires=requires).submit(int, "7").result(30) == 7


def test_keys_that_are_small_numbers_have_numbers_of_their_own() -> None:
    numbers = [CallOptions(key=key).limits().key for key in (0, 1, 2, 2**40, -2, "a", None)]
    assert len(set(numbers)) == len(numbers)
    assert numbers[-1] == 0
    assert all(0 < number < 2**64 for number in numbers[:-1])
