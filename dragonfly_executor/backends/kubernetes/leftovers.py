"""The Pods of pools in a namespace, of any process, found by their labels. The owner is in an annotation."""

from __future__ import annotations

import json
import os
import time
from calendar import timegm
from collections.abc import Iterable
from typing import Any

from dragonfly_executor.backends.base import BootRequest
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.found_node import FoundNode, SweepResult
from dragonfly_executor.backends.kubernetes.client import KubernetesAPI
from dragonfly_executor.backends.kubernetes.manifest import MANAGED_BY, MANAGER
from dragonfly_executor.backends.kubernetes.node import KILL_AFTER, KubernetesNode
from dragonfly_executor.backends.kubernetes.pod import Pod
from dragonfly_executor.backends.kubernetes.pod_watch import PodWatch
from dragonfly_executor.backends.label import OwnerLabel
from dragonfly_executor.backends.leftovers import Leftovers, ListedNode
from dragonfly_executor.backends.owner import Liveness, Owner

SELECTOR = f"{MANAGED_BY}={MANAGER}"
OWNER_ANNOTATION = "dragonfly-executor/owner"
STOP_TIMEOUT = 20.0
"""Seconds for the end of one Pod."""
NEVER = 10 * 365 * 24 * 3600
"""Seconds until a Pod's label expires. Pods may wait for weeks, and end with their runner or their deadline."""
RELEASED = "its pool has released it"
ENDED = "its runner has ended"


class KubernetesLeftovers:
    """The Pods of pools in one namespace. There is no journal: the API server's lists are complete and current.

    Args:
        api: the API server.
    """

    def __init__(self, api: KubernetesAPI) -> None:
        self._api = api
        self._found = Leftovers(None, "")
        self._released: set[str] = set()

    def release(self, node: KubernetesNode) -> None:
        """Have a later sweep delete a Pod of this process that could not be deleted."""
        self._released.add(node.name)

    def find(self, deadline: Deadline) -> list[FoundNode]:
        """Return all Pods of pools, those that have ended too.

        Raises:
            KubernetesAPIError: the Pods cannot be listed.
        """
        with self._api:
            items, _ = self._api.list_pods(SELECTOR, deadline)
        pods = {pod.name: pod for pod in map(Pod.parse, items)}
        found = self._found.find(map(_listed, pods.values()), lambda _: None)
        return [self._judged(node, pods[node.name]) for node in found]

    def destroy(self, nodes: Iterable[FoundNode], deadline: Deadline) -> SweepResult[FoundNode]:
        """Delete these Pods, and wait until their processes have ended."""
        watch = PodWatch(self._api, SELECTOR)

        def delete(name: str) -> str:
            """Delete a Pod. Return why it may still exist; "" if it is gone."""
            part = deadline.part(STOP_TIMEOUT)
            followed = watch.follow(name)
            try:
                # The end of a Pod is seen only by a watch that has seen the Pod.
                followed.wait(lambda one: one.pod is not None or one.refusal is not None, part)
                if not self._api.delete_pod(name, None, KILL_AFTER, part):
                    return ""
                gone = followed.wait(lambda one: one.is_gone, part)
                return "" if gone else "its deletion was accepted, and its node has not confirmed its end"
            finally:
                watch.leave(name)

        with self._api:
            swept = self._found.destroy(nodes, delete)
        self._released.difference_update(node.name for node in swept.destroyed)
        return swept

    def sweep(self, deadline: Deadline) -> SweepResult[FoundNode]:
        """Delete the Pods of pools that are gone.

        Raises:
            KubernetesAPIError: the Pods cannot be listed.
        """
        return self.destroy([node for node in self.find(deadline) if node.is_orphan], deadline)

    def _judged(self, node: FoundNode, pod: Pod) -> FoundNode:
        if node.name in self._released:
            return node._replace(liveness=Liveness.GONE, why=RELEASED)
        if node.liveness is Liveness.UNKNOWN and pod.has_ended:
            # For any owner: the Pod runs nothing, and a live owner deletes such a Pod soon.
            return node._replace(liveness=Liveness.GONE, why=ENDED)
        return node


def owner_annotation(request: BootRequest) -> dict[str, str]:
    """Return the annotation with the owner of a Pod that is about to be created. It holds no secret."""
    label = OwnerLabel(os.urandom(16).hex(), request.parent.pool, Owner.me(), int(time.time()) + NEVER, NEVER)
    return {OWNER_ANNOTATION: json.dumps(label.encode())}


def owner_of(pod: Pod) -> OwnerLabel | None:
    """Return the label in a Pod's annotation; None if there is none, or it is damaged."""
    try:
        said: Any = json.loads(pod.annotations.get(OWNER_ANNOTATION, "null"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not all(isinstance(value, str) for value in said.values()):
        return None
    return OwnerLabel.decode(said)


def _listed(pod: Pod) -> ListedNode:
    try:
        created = float(timegm(time.strptime(pod.created, "%Y-%m-%dT%H:%M:%SZ")))
    except (ValueError, OverflowError):
        created = None
    state = "Terminating" if pod.is_deleted else pod.phase
    return ListedNode(pod.name, pod.name, state, owner_of(pod), created, pod.node)
