"""The resources of Pods: the user's, and larger ones for calls that require more. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from math import ceil
from typing import Any, NamedTuple, TypeAlias

from dragonfly_executor.core.capacity import UNKNOWN, Capacity, Requirements
from dragonfly_executor.errors import BootError
from dragonfly_executor.util import validation

Amounts: TypeAlias = Mapping[str, Mapping[str, str]]
"""``requests`` and ``limits``, each with quantities by the name of their resource."""

RESOURCES: Mapping[str, str | int] = {"cpu": 1, "memory": "1Gi"}
GPU = "nvidia.com/gpu"
_QUANTITY = re.compile(r"\+?(\d+(?:\.\d*)?|\.\d+)(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?\d+)?")
_EXPONENTS = {"": 0, "n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_POWERS = {f"{letter}i": power for power, letter in enumerate("KMGTPE", 1)}


class PodSize(NamedTuple):
    """The resources of one Pod, and the labels of its node.

    Attributes:
        resources: ``requests`` and ``limits``.
        node_selector: labels that the node must have.
        labels: the runner's free labels that the node selector stands for.
        gpu: the name of the resource that is a GPU.
    """

    resources: Amounts
    node_selector: Mapping[str, str]
    labels: frozenset[str]
    gpu: str

    def capacity(self) -> Capacity | None:
        """Return what the runner has. None if its resources do not say: the agent then finds it out."""
        cpus, memory = self._requested("cpu"), self._requested("memory")
        if cpus is None or memory is None:
            return None
        return Capacity(float(cpus), int(self._requested(self.gpu) or 0), int(memory), self.labels)

    def slots(self) -> int | None:
        """Return the CPUs that the runner has, rounded up; None if its resources do not say."""
        return whole_cpus(self.resources)

    def meet(self, required: Requirements) -> PodSize:
        """Return the size of a Pod that has what calls require, except for labels. Nothing becomes less."""
        found = {kind: dict(self.resources.get(kind, {})) for kind in ("requests", "limits")}
        requests, limits = found["requests"], found["limits"]
        if required.cpus > (self._requested("cpu") or 0):
            requests["cpu"] = _millis(required.cpus)
            if "cpu" in limits and amount(limits["cpu"]) < amount(requests["cpu"]):
                limits["cpu"] = requests["cpu"]
        if required.memory > (self._requested("memory") or 0):
            is_bounded = "memory" in limits or "memory" not in requests
            requests["memory"] = str(required.memory)
            if is_bounded and amount(limits.get("memory", "0")) < required.memory:
                limits["memory"] = requests["memory"]
        if required.gpus > (self._requested(self.gpu) or 0):
            # Kubernetes takes no request for a device without the same limit.
            requests[self.gpu] = limits[self.gpu] = str(required.gpus)
        return self._replace(resources={kind: amounts for kind, amounts in found.items() if amounts})

    def _requested(self, resource: str) -> Fraction | None:
        """Return what the Pod has for certain: without a request, Kubernetes takes the limit for it."""
        return _first(self.resources, resource)


class PodSizes(NamedTuple):
    """The sizes that a backend's Pods may have.

    Attributes:
        own: the user's size. No Pod asks for less.
        most: the most that calls may require, by the name of a resource. A resource without an entry has no bound.
        selectors: by free label, the labels of nodes that have it.
    """

    own: PodSize
    most: Mapping[str, Fraction]
    selectors: Mapping[str, Mapping[str, str]]

    @classmethod
    def check(
        cls,
        resources: Mapping[str, Any] | None,
        max_resources: Mapping[str, Any] | None,
        gpu_resource: str,
        labels: Mapping[str, Mapping[str, str]] | Iterable[str],
        node_selector: Mapping[str, str] | None,
    ) -> PodSizes:
        """Return the sizes, from the arguments of `KubernetesBackend`.

        Raises:
            TypeError, ValueError: an argument is invalid, or contradicts another one.
        """
        if not isinstance(gpu_resource, str) or not gpu_resource:
            raise TypeError(f"gpu_resource must be the name of a resource, such as {GPU!r}, not {gpu_resource!r}")
        nodes, amounts = check_texts(node_selector, "node_selector"), check_resources(resources)
        most = {name: amount(text) for name, text in _quantities(max_resources or {}, "max_resources").items()}
        for name, bound in most.items():
            if name not in ("cpu", "memory", gpu_resource):
                raise ValueError(f"max_resources may have cpu, memory and {gpu_resource}, and not {name!r}")
            has = _first(amounts, name)
            if has is not None and has > bound:
                raise ValueError(f"max_resources[{name!r}] is less than resources[{name!r}]")
        selectors = _check_labels(labels, nodes)
        everywhere = frozenset(label for label, selector in selectors.items() if not selector)
        return cls(PodSize(amounts, nodes, everywhere, gpu_resource), most, selectors)

    def largest(self) -> Capacity:
        """Return what a runner can have at most, with all labels."""
        cpus, memory, gpus = (self.most.get(name) for name in ("cpu", "memory", self.own.gpu))
        return Capacity(
            UNKNOWN if cpus is None else float(cpus),
            UNKNOWN if gpus is None else int(gpus),
            UNKNOWN if memory is None else int(memory),
            frozenset(self.selectors),
        )

    def choose(self, required: Requirements | None) -> PodSize:
        """Return the size of a Pod for calls.

        Raises:
            BootError: no Pod can have what they require.
        """
        if required is None:
            return self.own
        if not required.fit(self.largest()):
            text = f"no Pod of this backend can have what the calls require: {required}"
            raise BootError(text, "create", final=True)
        nodes = dict(self.own.node_selector)
        for label in sorted(required.labels):
            for key, value in self.selectors[label].items():
                if nodes.setdefault(key, value) != value:
                    text = f"the calls require {required}, and no node has both {key}={nodes[key]} and {key}={value}"
                    raise BootError(text, "create", final=True)
        return self.own.meet(required)._replace(node_selector=nodes, labels=self.own.labels | required.labels)


def check_resources(resources: Mapping[str, Any] | None) -> dict[str, dict[str, str]]:
    """Return ``requests`` and ``limits`` from the user's resources.

    Without these two words the amounts are requests, and limits for all but the CPU.

    Raises:
        TypeError, ValueError: an amount is no quantity.
    """
    if not resources:
        return {}
    if set(resources) <= {"requests", "limits"}:
        return {kind: _quantities(amounts, f"resources[{kind!r}]") for kind, amounts in resources.items()}
    requests = _quantities(resources, "resources")
    limits = {name: amount for name, amount in requests.items() if name != "cpu"}
    return {"requests": requests, **({"limits": limits} if limits else {})}


def check_texts(texts: Mapping[str, str] | None, name: str) -> dict[str, str]:
    """Return a mapping of texts.

    Raises:
        TypeError: it is something else.
    """
    if texts is None:
        return {}
    if not isinstance(texts, Mapping) or not all(isinstance(each, str) for pair in texts.items() for each in pair):
        raise TypeError(f"{name} must map texts to texts, not {texts!r}")
    return dict(texts)


def amount(quantity: str) -> Fraction:
    """Return a quantity, such as "500m" or "4Gi", as a number.

    Raises:
        ValueError: it is no quantity.
    """
    matched = _QUANTITY.fullmatch(quantity)
    if matched is None:
        raise ValueError(f"{quantity!r} is no quantity")
    number, unit = Fraction(matched[1]), matched[2] or ""
    if unit in _POWERS:
        return number * (1 << 10 * _POWERS[unit])
    exponent = _EXPONENTS[unit] if unit in _EXPONENTS else int(unit[1:])
    scale: int = 10 ** abs(exponent)
    return number * scale if exponent >= 0 else number / scale


def whole_cpus(resources: Amounts) -> int | None:
    """Return the CPUs that the runner has, rounded up; None if its resources do not say."""
    cpus = _first(resources, "cpu")
    return None if cpus is None else max(1, ceil(cpus))


def _first(resources: Amounts, name: str) -> Fraction | None:
    for kind in ("requests", "limits"):
        quantity = resources.get(kind, {}).get(name)
        if quantity is not None:
            return amount(quantity)
    return None


def _millis(cpus: float) -> str:
    """Return CPUs as a quantity: whole ones, or thousandths, which are the finest that Kubernetes has."""
    millis = ceil(Fraction(str(cpus)) * 1000)
    return f"{millis}m" if millis % 1000 else str(millis // 1000)


def _check_labels(
    labels: Mapping[str, Mapping[str, str]] | Iterable[str], node_selector: Mapping[str, str]
) -> dict[str, Mapping[str, str]]:
    names = validation.labels(labels, "labels")
    if not isinstance(labels, Mapping):
        return {name: {} for name in names}
    selectors: dict[str, Mapping[str, str]] = {}
    for name in names:
        selectors[name] = check_texts(labels[name], f"labels[{name!r}]")
        for key, value in selectors[name].items():
            if node_selector.get(key, value) != value:
                raise ValueError(f"labels[{name!r}] has {key}={value}, and node_selector {key}={node_selector[key]}")
    return selectors


def _quantities(amounts: object, name: str) -> dict[str, str]:
    if not isinstance(amounts, Mapping):
        raise TypeError(f"{name} must map names of resources to amounts, not {type(amounts).__name__}")
    found = {}
    for resource, quantity in amounts.items():
        if isinstance(quantity, bool) or not isinstance(quantity, (str, int, float)):
            raise TypeError(f"{name}[{resource!r}] must be a quantity such as '500m', '4Gi' or 2, not {quantity!r}")
        text = str(quantity)
        if not _QUANTITY.fullmatch(text):
            raise ValueError(f"{name}[{resource!r}] must be a quantity such as '500m', '4Gi' or 2, not {quantity!r}")
        found[str(resource)] = text
    return found
