"""The manifests of a runner's Pod and Secret. Pure."""

from __future__ import annotations

import base64
import copy
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from dragonfly_executor.backends.agent_command import runner_options
from dragonfly_executor.backends.kubernetes.pod import CONTAINER
from dragonfly_executor.protocol.parent import VARIABLE

MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "dragonfly-executor"
POOL_LABEL = "dragonfly-executor/pool"
BACKEND_LABEL = "dragonfly-executor/backend"
"""The label by which a backend finds its own Pods."""
KEY = "parent"
"""The key in the Secret."""
GRACE = 30
"""Seconds between SIGTERM and SIGKILL. The runner gives its calls 25 s of them."""


class PodOwner(NamedTuple):
    """The parent's own Pod, which owns the Pods of its runners.

    Attributes:
        name, uid: the Pod's.
    """

    name: str
    uid: str

    def reference(self) -> dict[str, Any]:
        """Return the entry of ``metadata.ownerReferences``."""
        return {"apiVersion": "v1", "kind": "Pod", "name": self.name, "uid": self.uid}


class PodBlueprint(NamedTuple):
    """Settings that all Pods of a backend have in common.

    Attributes:
        image: the image of the runner's container.
        python: the interpreter in the image.
        resources: ``requests`` and ``limits``.
        env: environment variables for the runners.
        node_selector, tolerations, service_account: of the Pod; empty for the cluster's defaults.
        max_lifetime: seconds that a Pod may run.
        keep_entrypoint: whether the image's ENTRYPOINT runs the runner's command.
        failsafe: seconds for which a runner tries to reach its parent.
        template: further settings of the Pods, as a ``PodTemplateSpec``.
        backend_id: the value of `BACKEND_LABEL`.
    """

    image: str
    python: str
    resources: Mapping[str, Mapping[str, str]]
    env: Mapping[str, str]
    node_selector: Mapping[str, str]
    tolerations: tuple[Mapping[str, Any], ...]
    service_account: str
    max_lifetime: float
    keep_entrypoint: bool
    failsafe: float
    template: Mapping[str, Any]
    backend_id: str

    @property
    def selector(self) -> str:
        """Return the label selector of this backend's Pods."""
        return f"{BACKEND_LABEL}={self.backend_id}"

    def command(self) -> list[str]:
        """Return the command that starts a runner."""
        options = runner_options()
        return [
            self.python, "-P", *options, "-m", "dragonfly_executor.runner", "--failsafe", f"{self.failsafe:g}",
        ]  # fmt: skip

    def pod(self, name: str, pool: str, owner: PodOwner | None, annotations: Mapping[str, str]) -> dict[str, Any]:
        """Return the manifest of a runner's Pod.

        It holds no secret: everyone who may read Pods may read it. The parent's description is in the Secret of the
        same name, and the container does not start before that exists.

        Args:
            name: the Pod's name.
            pool: the name of the pool.
            owner: the Pod that owns it; None if the parent is not in a Pod of this namespace.
            annotations: of the Pod.
        """
        template = copy.deepcopy(dict(self.template))
        metadata, spec = dict(template.get("metadata") or {}), dict(template.get("spec") or {})
        metadata["name"] = name
        metadata["labels"] = {**(metadata.get("labels") or {}), **self._labels(pool)}
        metadata["annotations"] = {**(metadata.get("annotations") or {}), **annotations}
        if owner is not None:
            metadata["ownerReferences"] = [owner.reference()]
        spec["containers"] = self._containers(name, list(spec.get("containers") or []))
        spec["restartPolicy"] = "Never"
        spec["activeDeadlineSeconds"] = math.ceil(self.max_lifetime)
        spec.setdefault("terminationGracePeriodSeconds", GRACE)
        # Variables of every Service in the namespace are of no use to calls, and there may be thousands.
        spec.setdefault("enableServiceLinks", False)
        if self.service_account:
            spec["serviceAccountName"] = self.service_account
        else:
            # Calls get no credentials of the cluster unless the user asks for an account.
            spec.setdefault("automountServiceAccountToken", False)
        if self.node_selector:
            spec["nodeSelector"] = {**(spec.get("nodeSelector") or {}), **self.node_selector}
        if self.tolerations:
            spec["tolerations"] = [*(spec.get("tolerations") or []), *map(dict, self.tolerations)]
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}

    def secret(self, name: str, pool: str, pod_uid: str, parent: str) -> dict[str, Any]:
        """Return the manifest of the Secret with the parent's description. The cluster removes it with its Pod."""
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": name,
                "labels": self._labels(pool),
                "ownerReferences": [PodOwner(name, pod_uid).reference()],
            },
            "type": "Opaque",
            "immutable": True,
            "data": {KEY: base64.b64encode(parent.encode()).decode()},
        }

    def _labels(self, pool: str) -> dict[str, str]:
        return {MANAGED_BY: MANAGER, POOL_LABEL: label_value(pool), BACKEND_LABEL: self.backend_id}

    def _containers(self, pod_name: str, containers: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return the containers of the template, with the runner's first."""
        own = next((one for one in containers if one.get("name") == CONTAINER), None)
        runner: dict[str, Any] = dict(own or {}) | {"name": CONTAINER, "image": self.image}
        given = runner.get("command")
        if given or self.keep_entrypoint:
            # The template's command, or the image's ENTRYPOINT, runs the runner's as its arguments.
            runner["args"] = self.command()
        else:
            runner["command"] = self.command()
            runner.pop("args", None)
        reference = {"name": pod_name, "key": KEY, "optional": False}
        runner["env"] = [
            *(entry for entry in runner.get("env") or [] if entry.get("name") not in {VARIABLE, *self.env}),
            *({"name": variable, "value": value} for variable, value in self.env.items()),
            {"name": VARIABLE, "valueFrom": {"secretKeyRef": reference}},
        ]
        if self.resources:
            amounts = {kind: dict(named) for kind, named in self.resources.items()}
            runner["resources"] = {**(runner.get("resources") or {}), **amounts}
        # The Pod's status then has the end of the output of a runner that failed. No right to read logs is needed.
        runner.setdefault("terminationMessagePolicy", "FallbackToLogsOnError")
        return [runner, *(dict(one) for one in containers if one is not own)]


def label_value(text: str) -> str:
    """Return a text as the value of a label: letters, digits and ``-_.``, at most 63."""
    words = re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[:63]
    return words.strip("-_.")


def check_image(image: str) -> str:
    """Return the name of an image.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(image, str) or not image.strip():
        raise ValueError(f"image must be the name of an image, not {image!r}")
    return image


def check_tolerations(tolerations: Iterable[Mapping[str, Any]] | None) -> tuple[Mapping[str, Any], ...]:
    """Return tolerations.

    Raises:
        TypeError: they are no list of mappings.
    """
    if isinstance(tolerations, (str, Mapping)):
        raise TypeError(f"tolerations must be a list of mappings, not {tolerations!r}")
    found = tuple(tolerations or ())
    if not all(isinstance(one, Mapping) for one in found):
        raise TypeError(f"tolerations must be a list of mappings, not {tolerations!r}")
    return found


def template_resources(template: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``requests`` and ``limits`` that a Pod template has for the runner's container."""
    for container in (template.get("spec") or {}).get("containers") or []:
        if container.get("name") == CONTAINER:
            amounts = container.get("resources") or {}
            return {kind: amounts[kind] for kind in ("requests", "limits") if amounts.get(kind)}
    return {}


def check_template(template: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return a Pod template.

    Raises:
        TypeError: it, or a part of it, has the wrong type.
        ValueError: it has more than ``metadata`` and ``spec``, or sets what the backend sets itself.
    """
    if template is None:
        return {}
    if not isinstance(template, Mapping):
        raise TypeError(f"pod_template must be a mapping with metadata and spec, not {type(template).__name__}")
    unknown = set(template) - {"metadata", "spec", "apiVersion", "kind"}
    if unknown:
        raise ValueError(f"pod_template has metadata and spec, and not {', '.join(sorted(map(str, unknown)))}")
    for part in ("metadata", "spec"):
        if not isinstance(template.get(part, {}), Mapping):
            raise TypeError(f"pod_template[{part!r}] must be a mapping, not {template[part]!r}")
    spec = template.get("spec", {})
    own = {"restartPolicy", "activeDeadlineSeconds", "nodeName"} & set(spec)
    if own:
        raise ValueError(f"pod_template must not set {', '.join(sorted(own))} in its spec: KubernetesBackend does")
    containers = spec.get("containers", [])
    if not isinstance(containers, list) or not all(isinstance(one, Mapping) for one in containers):
        raise TypeError("pod_template['spec']['containers'] must be a list of mappings")
    return {part: template[part] for part in ("metadata", "spec") if template.get(part)}
