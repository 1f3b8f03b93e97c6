"""What is known to differ: the schemas from a real API server, and this simulator from a real cluster."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]
META = "io.k8s.apimachinery.pkg.apis.meta.v1."


def correct(definitions: Json) -> Json:
    """Return the definitions with all of the schemas' deviations applied."""
    corrected = copy.deepcopy(definitions)
    for _, change in SCHEMAS:
        change(corrected)
    return corrected


def _items_have_no_kind(definitions: Json) -> None:
    """Nothing is to be changed: kind and apiVersion are optional there. A test holds that our lists leave them out."""
    assert "required" not in definitions["io.k8s.api.core.v1.Pod"]


def _open_raw_object(definitions: Json) -> None:
    definitions["io.k8s.apimachinery.pkg.runtime.RawExtension"] = {"type": "object"}


SCHEMAS: tuple[tuple[str, Callable[[Json], None]], ...] = (
    ("items of a list have neither kind nor apiVersion on the wire", _items_have_no_kind),
    ("WatchEvent.object is a RawExtension, which is any object; it is checked by its own kind", _open_raw_object),
)
"""Each with its reason."""
BOOKMARK = "a bookmark's object has only kind, apiVersion and metadata.resourceVersion; spec.containers is null there"
"""Bookmarks are not held to the schema of a Pod."""
SIMULATOR: tuple[str, ...] = (
    "Pods share the network of this machine: their address is 127.0.0.1, and NetworkPolicies do not exist",
    "a Pod's own files are a folder, and not a mount namespace: HOME and TMPDIR lead there",
    "$(NAME) in commands is not expanded",
    "resource limits are not enforced: a test says which Pod runs out of memory",
    "managedFields are left out, as are most defaults that the server writes into a spec",
    "lists are not paged (limit and continue are refused); watches have no sendInitialEvents",
    "of a manifest's semantic rules only those are checked that `validation.py` names",
    "init containers and sidecars are accepted and not run",
    "a node reports at once, where a kubelet has up to 1 s; time spans are those of `Timing`",
)
