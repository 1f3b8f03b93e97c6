"""Rules for objects that their schemas do not have, of those that an API server checks."""

from __future__ import annotations

import base64
import re
from typing import Any

from tests.support.kubernetes_simulator.statuses import StatusError, invalid

Json = dict[str, Any]
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
KEY = re.compile(r"(?:[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
QUANTITY = re.compile(r"([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)")
UNITS = {"": 1, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18} | {
    f"{letter}i": 1024.0**power for power, letter in enumerate("KMGTPE", 1)
}
LABEL_RULE = "must be empty or consist of alphanumeric characters, '-', '_' or '.'"


def quantity(text: str) -> float:
    """A quantity as a number."""
    matched = QUANTITY.fullmatch(text)
    if matched is None:
        raise ValueError(text)
    number, unit = matched.groups()
    return float(number + unit) if unit[:1] in ("e", "E") and unit[1:] else float(number) * UNITS[unit]


def check_metadata(kind: str, metadata: Json) -> None:
    """Names, labels and owners."""
    name = metadata.get("name", "")
    if not SUBDOMAIN.fullmatch(name) or len(name) > 253:
        raise invalid(kind, name, "metadata.name", "a lowercase RFC 1123 subdomain must consist of lower case ...")
    for key, value in (metadata.get("labels") or {}).items():
        if not KEY.fullmatch(key):
            raise invalid(kind, name, "metadata.labels", f'Invalid value: "{key}": name part must consist of ...')
        if not LABEL.fullmatch(value):
            raise invalid(kind, name, "metadata.labels", f'Invalid value: "{value}": a valid label {LABEL_RULE}')
    for key in metadata.get("annotations") or {}:
        if not KEY.fullmatch(key):
            raise invalid(kind, name, "metadata.annotations", f'Invalid value: "{key}": name part must consist of ...')
    for owner in metadata.get("ownerReferences") or []:
        if not all(owner.get(field) for field in ("apiVersion", "kind", "name", "uid")):
            raise invalid(kind, name, "metadata.ownerReferences", "Required value: uid must not be empty")


def check_pod(pod: Json) -> None:
    """A Pod that is to be created.

    Raises:
        StatusError: 422.
    """
    name, spec = pod["metadata"]["name"], pod["spec"]
    containers = spec.get("containers") or []
    if not containers:
        raise invalid("Pod", name, "spec.containers", "Required value")
    names = [container["name"] for container in containers]
    if len(set(names)) != len(names):
        raise invalid("Pod", name, "spec.containers[1].name", f'Duplicate value: "{names[1]}"')
    if len(name) > 63:
        raise invalid("Pod", name, "spec.hostname", "must be no more than 63 characters")
    if spec.get("restartPolicy", "Always") not in ("Always", "OnFailure", "Never"):
        raise invalid("Pod", name, "spec.restartPolicy", f'Unsupported value: "{spec["restartPolicy"]}"')
    if not 1 <= spec.get("activeDeadlineSeconds", 1) <= 2**31 - 1:
        why = "must be between 1 and 2147483647, inclusive"
        raise invalid("Pod", name, "spec.activeDeadlineSeconds", f"Invalid value: {why}")
    for key, value in (spec.get("nodeSelector") or {}).items():
        if not LABEL.fullmatch(value) or not KEY.fullmatch(key):
            raise invalid("Pod", name, "spec.nodeSelector", f'Invalid value: "{value}": a valid label {LABEL_RULE}')
    for number, container in enumerate(containers):
        _check_container(name, container, f"spec.containers[{number}]")
    _check_tolerations(name, spec.get("tolerations") or [])


def _check_container(name: str, container: Json, place: str) -> None:
    if not container.get("image"):
        raise invalid("Pod", name, f"{place}.image", "Required value")
    if container["image"] != container["image"].strip():
        raise invalid("Pod", name, f"{place}.image", "Invalid value: must not have leading or trailing whitespace")
    for number, entry in enumerate(container.get("env") or []):
        where = f"{place}.env[{number}]"
        if not entry["name"] or "=" in entry["name"]:
            raise invalid("Pod", name, f"{where}.name", "Invalid value: a valid environment variable name must ...")
        if entry.get("value") and entry.get("valueFrom"):
            raise invalid("Pod", name, f"{where}.valueFrom", "may not be specified when `value` is not empty")
    resources = container.get("resources") or {}
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    for kind, amounts in (("requests", requests), ("limits", limits)):
        for resource, amount in amounts.items():
            try:
                quantity(amount)
            except (ValueError, KeyError):
                raise StatusError(400, "BadRequest", "quantities must match the regular expression ...") from None
            if "/" not in resource and resource not in ("cpu", "memory", "ephemeral-storage"):
                raise invalid("Pod", name, f"{place}.resources.{kind}[{resource}]", "must be a standard resource type")
    for resource, amount in requests.items():
        if resource in limits and quantity(amount) > quantity(limits[resource]):
            where = f"{place}.resources.requests"
            raise invalid("Pod", name, where, f'"{amount}": must be less than or equal to {resource} limit')
        if "/" in resource and limits.get(resource) != amount:
            raise invalid("Pod", name, f"{place}.resources.limits", f"must be set for non overcommitable {resource}")


def _check_tolerations(name: str, tolerations: list[Json]) -> None:
    for number, one in enumerate(tolerations):
        where = f"spec.tolerations[{number}]"
        if not one.get("key") and one.get("operator") != "Exists":
            raise invalid("Pod", name, f"{where}.operator", "operator must be Exists when `key` is empty")
        if one.get("operator") == "Exists" and one.get("value"):
            raise invalid("Pod", name, f"{where}.operator", "value must be empty when `operator` is 'Exists'")


def check_secret(secret: Json) -> None:
    """A Secret that is to be created.

    Raises:
        StatusError: 422, or 400 for data that is not base64.
    """
    for key, value in (secret.get("data") or {}).items():
        try:
            base64.b64decode(value, validate=True)
        except ValueError:
            raise StatusError(400, "BadRequest", f"illegal base64 data in data[{key}]") from None
