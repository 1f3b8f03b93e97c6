"""Checks of a cluster without a runner: is the API server there, and does it give this account the rights?"""

from __future__ import annotations

from collections.abc import Iterator

from dragonfly_executor.backends.backend_check import BackendCheck
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.kubernetes.answers import KubernetesAPIError
from dragonfly_executor.backends.kubernetes.client import KubernetesAPI

RIGHTS = (
    ("create", "pods"), ("get", "pods"), ("list", "pods"), ("watch", "pods"), ("delete", "pods"), ("create", "secrets"),
)  # fmt: skip
"""All rights that the backend uses."""
CHECK_TIMEOUT = 20.0


def check_cluster(api: KubernetesAPI) -> Iterator[BackendCheck]:
    """Ask the API server for each right. Stops when the server does not answer."""
    access = api.access
    missing = []
    deadline = Deadline(CHECK_TIMEOUT)
    with api:
        for verb, resource in RIGHTS:
            try:
                allowed, why = api.may(verb, resource, deadline)
            except KubernetesAPIError as error:
                yield BackendCheck("cluster", False, str(error), "kubectl version must work with the same credentials")
                return
            if not allowed:
                missing.append(f"{verb} {resource}{f' ({why})' if why else ''}")
    yield BackendCheck("cluster", True, f"{access.server}, namespace {access.namespace}, by {access.source}")
    granted = f"all {len(RIGHTS)} rights in namespace {access.namespace}"
    text = f"missing in namespace {access.namespace}: {', '.join(missing)}" if missing else granted
    yield BackendCheck("rights", not missing, text, "docs/kubernetes.md has a Role with all rights that are needed")
