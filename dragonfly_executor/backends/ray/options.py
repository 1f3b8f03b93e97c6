"""Options of an actor that has what calls require, and what its runner has."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

from dragonfly_executor.core.capacity import Capacity, Requirements
from dragonfly_executor.errors import BootError

TAG = 0.001
"""The amount of a custom resource that an actor takes if a label stands for it: it only has to be there."""


def meet(options: Mapping[str, Any], required: Requirements | None, labels: frozenset[str]) -> dict[str, Any]:
    """Return the options of an actor that has what calls require. Other resources that the user's options ask for stay.

    Args:
        options: the user's options, by Ray's names.
        required: what the calls require. A label "region=eu" is a label of a node, any other a custom resource.
        labels: labels of all nodes, which Ray does not know.

    Raises:
        BootError: a label contradicts the user's ``label_selector``.
    """
    found = dict(options)
    if required is None:
        return found
    if required.cpus:
        # Ray takes parts of one CPU, and whole numbers above that.
        cpus = required.cpus if required.cpus < 1 else ceil(required.cpus)
        found["num_cpus"] = max(cpus, found.get("num_cpus") or 0)
    if required.gpus:
        found["num_gpus"] = max(required.gpus, found.get("num_gpus") or 0)
    if required.memory:
        found["memory"] = max(required.memory, found.get("memory") or 0)
    for label in sorted(required.labels - labels):
        name, equals, value = label.partition("=")
        if not equals:
            found["resources"] = {name: TAG, **(found.get("resources") or {})}
            continue
        selector = found.get("label_selector") or {}
        if selector.get(name, value) != value:
            text = f"the calls require {required}, and RayBackend has label_selector {name}={selector[name]!r}"
            raise BootError(f"{text}: leave it out, so that each actor asks for its node", "create", final=True)
        found["label_selector"] = {**selector, name: value}
    return found


def slots_of(options: Mapping[str, Any]) -> int:
    """Return the number of slots of an actor's runner: its CPUs, rounded down."""
    return max(1, int(options.get("num_cpus") or 0))


def capacity_of(options: Mapping[str, Any]) -> Capacity:
    """Return what the runner of an actor with these options has: what the actor asks for. Ray sets no limits."""
    labels = {*(options.get("resources") or {})}
    labels |= {f"{name}={value}" for name, value in (options.get("label_selector") or {}).items()}
    return Capacity(
        float(options.get("num_cpus") or 0),
        int(options.get("num_gpus") or 0),
        int(options.get("memory") or 0),
        frozenset(labels),
    )
