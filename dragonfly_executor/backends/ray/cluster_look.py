"""`ClusterLook`: the driver's view of a Ray cluster, and the state of an actor that waits there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

OPERATORS = ("!", "in(")
"""Beginnings of a selector's value that is more than the value of a label."""


class ClusterLook(NamedTuple):
    """A cluster, as one look shows it.

    Attributes:
        nodes: the resources of each node, by name.
        labels: the labels of each node.
        autoscaler: what the autoscaler does, for people to read; "" if there is none, or it does nothing.
    """

    nodes: Sequence[Mapping[str, float]]
    labels: Sequence[Mapping[str, str]]
    autoscaler: str = ""

    def standing(self, options: Mapping[str, Any], waiting: int) -> str:
        """Return how an actor stands that waits, for people to read.

        Args:
            options: the actor's, by Ray's names.
            waiting: number of actors that wait.
        """
        said, fitting = self._census(options)
        if fitting:
            said += ", and other work uses it"
        count = f"{waiting} actor{'s wait' if waiting > 1 else ' waits'}"
        return "; ".join(filter(None, (said, count, self.autoscaler)))

    def census(self, options: Mapping[str, Any]) -> str:
        """Return how many nodes have what an actor with these options asks for, for people to read."""
        said, _ = self._census(options)
        return "; ".join(filter(None, (said, self.autoscaler)))

    def _census(self, options: Mapping[str, Any]) -> tuple[str, int]:
        wanted, selector = _resources(options), options.get("label_selector") or {}
        text = ", ".join([f"{name}={amount:g}" for name, amount in wanted.items()])
        text += "".join(f", the label {name}={value}" for name, value in selector.items())
        fitting = sum(
            _has(node, wanted) and _matches(labels, selector)
            for node, labels in zip(self.nodes, self.labels, strict=True)
        )
        if not self.nodes:
            return "the Ray cluster has no node", 0
        if not fitting:
            return f"none of the {len(self.nodes)} Ray nodes has {text}", 0
        return f"{fitting} of {len(self.nodes)} Ray nodes {'has' if fitting == 1 else 'have'} {text}", fitting


def _resources(options: Mapping[str, Any]) -> dict[str, float]:
    named = {"CPU": options.get("num_cpus"), "GPU": options.get("num_gpus"), "memory": options.get("memory")}
    return {name: amount for name, amount in {**named, **(options.get("resources") or {})}.items() if amount}


def _has(node: Mapping[str, float], wanted: Mapping[str, float]) -> bool:
    return all(node.get(name, 0) >= amount for name, amount in wanted.items())


def _matches(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Return False if the node does not match. A selector with an operator is Ray's business: it matches here."""
    return all(value.startswith(OPERATORS) or labels.get(name) == value for name, value in selector.items())
