"""The reasons that Kubernetes gives for Pods that wait or end, in words, with what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dragonfly_executor.runner import exit_codes

WAITING_FAILURES = {
    "ErrImagePull": "Check image=, and the Pod's image pull secrets",
    "ImagePullBackOff": "Check image=, and the Pod's image pull secrets",
    "InvalidImageName": "image= is no name of an image",
    "ErrImageNeverPull": "The node has no such image, and the Pod's imagePullPolicy forbids to pull it",
    "CreateContainerConfigError": "Create the object that it names, or change pod_template=",
    "CreateContainerError": "Check pod_template= and the image",
    "RunContainerError": "Check python=, pod_template= and the image",
}
"""Reasons for which a container waits until a person changes something, with advice."""
HOPELESS_PULLS = (
    "not found", "manifest unknown", "unauthorized", "denied", "forbidden", "authentication required",
    "does not exist", "invalid reference", "no match for platform",
)  # fmt: skip
"""Words in a failed pull that no later pull changes. A registry that is away for a moment has others."""
DISRUPTIONS = {
    "PreemptionByScheduler": "was preempted by a Pod of higher priority",
    "DeletionByTaintManager": "was evicted: its node has a taint that it does not tolerate, as a node that is lost has",
    "EvictionByEvictionAPI": "was evicted, as by kubectl drain or the cluster autoscaler",
    "DeletionByPodGC": "was deleted: its node is gone",
    "TerminationByKubelet": "was ended by its node, which shuts down or has no memory or disk left",
}
"""Reasons of the condition DisruptionTarget."""
LOST_NODES = ("DeletionByTaintManager", "DeletionByPodGC")
"""Reasons of the condition DisruptionTarget with which the cluster gives up a Pod whose node does not report."""
POD_REASONS = {
    "Evicted": "was evicted by its node: ask for what it uses with resources=",
    "DeadlineExceeded": "reached its max_lifetime (activeDeadlineSeconds): give Pods more with max_lifetime=",
    "NodeLost": "lost its node",
    "NodeShutdown": "was ended, as its node shuts down",
    "Terminated": "was ended, as its node shuts down",
    "Shutdown": "was ended, as its node shuts down",
    "Preempting": "was ended by its node for a Pod of higher priority",
    "UnexpectedAdmissionError": "was refused by its node",
    "NodeAffinity": "was refused by its node, which lacks a label that node_selector= asks for",
    "OutOfcpu": "was refused by its node, which has too few CPUs left",
    "OutOfmemory": "was refused by its node, which has too little memory left",
    "OutOfpods": "was refused by its node, which has as many Pods as it may",
}
"""Values of ``status.reason``."""
EXITS = {
    exit_codes.UNREACHABLE: (
        "it could not reach the parent: does host= name an address of this machine that Pods reach, and does a "
        "NetworkPolicy let them?"
    ),
    exit_codes.REFUSED: "the parent refused it, or did not expect it any more",
    0: "a runner that was told to end, or an image whose ENTRYPOINT does not run its arguments, ends so",
    1: "is dragonfly_executor installed in the image, for the same version of Python?",
    126: "the command that starts the runner cannot be executed: check python= and the image",
    127: "the command that starts the runner was not found: check python= and the image",
    128: "the command that starts the runner was not found, or cannot be executed: check python= and the image",
    137: "it was killed",
    143: "it was told to end (SIGTERM)",
}
"""Exit codes of a container, in words."""


def describe_exit(ending: Mapping[str, Any]) -> str:
    """Return how a container has ended, from its ``state.terminated``."""
    code, reason = ending.get("exitCode"), ending.get("reason")
    if reason == "OOMKilled":
        return f"was killed because it used more memory than its limit (OOMKilled, exit code {code}): raise resources="
    why = f" ({reason})" if isinstance(reason, str) and reason not in ("Completed", "Error") else ""
    meaning = EXITS.get(code) if isinstance(code, int) else None
    return f"exited with code {code}{why}{f': {meaning}' if meaning else ''}"
