"""The published strict schemas of Kubernetes, against which every request and every answer is held."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

from tests.support.kubernetes_simulator.deviations import correct

Json = dict[str, Any]
VERSION = "v1.37.0"
FILES = {
    ("v1", "Pod"): "pod-v1",
    ("v1", "PodList"): "podlist-v1",
    ("v1", "Secret"): "secret-v1",
    ("v1", "Status"): "status-meta-v1",
    ("v1", "DeleteOptions"): "deleteoptions-meta-v1",
    ("v1", "WatchEvent"): "watchevent-meta-v1",
    ("v1", "ServiceAccount"): "serviceaccount-v1",
    ("authorization.k8s.io/v1", "SelfSubjectAccessReview"): "selfsubjectaccessreview-authorization-v1",
    ("rbac.authorization.k8s.io/v1", "Role"): "role-rbac-v1",
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): "rolebinding-rbac-v1",
}


@cache
def _validator(api_version: str, kind: str) -> Any:
    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource

    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"{VERSION}-local-strict"
    schema = json.loads((folder / f"{FILES[api_version, kind]}.json").read_text())
    registry: Any = Resource.from_contents(_definitions()) @ Registry()
    return Draft202012Validator(schema, registry=registry)


@cache
def _definitions() -> Json:
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"{VERSION}-local-strict"
    whole = json.loads((folder / "_definitions.json").read_text())
    return {**whole, "$defs": correct(whole["$defs"])}


def faults_of(value: Any, api_version: str, kind: str) -> Iterator[tuple[str, str]]:
    """What is wrong with an object: "unknown" or "wrong", and a text."""
    if not isinstance(value, dict):
        yield "wrong", f"a {kind} must be an object, not {type(value).__name__}"
        return
    for error in _validator(api_version, kind).iter_errors(value):
        place = ".".join(map(str, error.absolute_path))
        sort = "unknown" if error.validator == "additionalProperties" else "wrong"
        yield sort, f"{place or kind}: {error.message[:300]}"
