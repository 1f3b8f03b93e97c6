"""Creates one Pod for one boot, whatever answers are lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dragonfly_executor.backends.base import BootRequest
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.kubernetes.answers import AnswerKind, KubernetesAPIError
from dragonfly_executor.backends.kubernetes.client import KubernetesAPI
from dragonfly_executor.backends.kubernetes.manifest import PodBlueprint
from dragonfly_executor.backends.kubernetes.node import KubernetesNode
from dragonfly_executor.backends.kubernetes.pod import Pod
from dragonfly_executor.backends.kubernetes.pod_watch import PodWatch
from dragonfly_executor.errors import BootError

UNDO_TIMEOUT = 15.0
"""Seconds for deleting the Pod of a failed boot."""
CANCELLED_TIMEOUT = 1.5
"""Seconds for deleting the Pod of a cancelled boot, which must end within 2 s."""


class PodCreation:
    """One boot, up to a Pod that waits for a node.

    Args:
        api, watch: the cluster's.
        blueprint: the backend's.
        request: the boot.
    """

    def __init__(self, api: KubernetesAPI, watch: PodWatch, blueprint: PodBlueprint, request: BootRequest) -> None:
        self._api = api
        self._watch = watch
        self._blueprint = blueprint
        self._request = request

    def run(self, name: str, manifest: Mapping[str, Any], deadline: Deadline, queue_timeout: float) -> KubernetesNode:
        """Create the Pod and its Secret. The Pod that it returns waits for a node.

        Raises:
            BootError: there is no Pod.
        """
        node = KubernetesNode(name, self._api, self._watch, self._request, queue_timeout)
        try:
            self._create(node, manifest, deadline)
        except KubernetesAPIError as error:
            self._undo(node)
            raise BootError(str(error), "create", final=error.final) from error
        except BaseException:
            self._undo(node)
            raise
        node.wait_in_queue()
        return node

    def _create(self, node: KubernetesNode, manifest: Mapping[str, Any], deadline: Deadline) -> None:
        """Create the Pod, then its Secret.

        In this order the Pod owns the Secret, so no step can leave a Secret behind. If the second step is never made,
        the Pod's container does not start.
        """
        node.may_exist = True
        try:
            said = self._api.create("pods", manifest, deadline) or self._api.get_pod(node.name, deadline)
        except KubernetesAPIError as error:
            node.may_exist = error.may_have_happened
            raise
        if said is None:
            raise KubernetesAPIError(f"Pod {node.name} was deleted when it had just been created", AnswerKind.BUSY)
        node.was_created(Pod.parse(said))
        parent = self._request.parent
        secret = self._blueprint.secret(node.name, parent.pool, node.uid or "", parent.encode())
        self._api.create("secrets", secret, deadline)

    def _undo(self, node: KubernetesNode) -> None:
        given_up = self._request.given_up is not None and self._request.given_up.is_set()
        node.stop(CANCELLED_TIMEOUT if given_up else UNDO_TIMEOUT)
