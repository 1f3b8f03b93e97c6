"""A backend's connection to its cluster: the client, the watch, the sweeper, and this program's own Pod."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.kubernetes.access import ClusterAccess
from dragonfly_executor.backends.kubernetes.manifest import PodOwner
from dragonfly_executor.errors import BootError

if TYPE_CHECKING:
    from dragonfly_executor.backends.kubernetes.client import KubernetesAPI
    from dragonfly_executor.backends.kubernetes.leftovers import KubernetesLeftovers
    from dragonfly_executor.backends.kubernetes.pod_watch import PodWatch

logger = logging.getLogger("dragonfly_executor")


class ClusterClients(NamedTuple):
    """The client, the watch and the sweeper of one process.

    Attributes:
        api: sends requests.
        watch: shows the backend's Pods.
        leftovers: finds and deletes the Pods of programs that are gone.
    """

    api: KubernetesAPI
    watch: PodWatch
    leftovers: KubernetesLeftovers


class ClusterConnection:
    """A backend's cluster. Any thread.

    Args:
        find_access: finds the cluster and the credentials; called again when the credentials are refused.
        selector: the label selector of the backend's Pods.

    Attributes:
        access: the cluster and the credentials, as found first.

    Raises:
        ValueError: there is no cluster.
    """

    def __init__(self, find_access: Callable[[], ClusterAccess], selector: str) -> None:
        self._find_access = find_access
        self._selector = selector
        self.access = find_access()
        self._lock = threading.Lock()
        self._made: tuple[int, ClusterClients] | None = None
        self._owner: PodOwner | None = None
        self._knows_owner = False

    def clients(self) -> ClusterClients:
        """Return this process's clients: a forked child has no thread for those of its parent."""
        from dragonfly_executor.backends.kubernetes.client import KubernetesAPI
        from dragonfly_executor.backends.kubernetes.leftovers import KubernetesLeftovers
        from dragonfly_executor.backends.kubernetes.pod_watch import PodWatch

        with self._lock:
            if self._made is None or self._made[0] != os.getpid():
                api = KubernetesAPI(self._find_access)
                made = ClusterClients(api, PodWatch(api, self._selector), KubernetesLeftovers(api))
                self._made = os.getpid(), made
            return self._made[1]

    def find_owner(self, deadline: Deadline) -> PodOwner | None:
        """Return this program's own Pod, if it may own the runners' Pods.

        Raises:
            BootError: the API server did not answer.
        """
        from dragonfly_executor.backends.kubernetes.answers import KubernetesAPIError
        from dragonfly_executor.backends.kubernetes.pod import Pod

        if not self.access.own_namespace or self._knows_owner:
            return self._owner
        if self.access.own_namespace != self.access.namespace:
            # The cluster deletes objects whose owner is in another namespace at once.
            self._knows_owner = True
            return None
        name = os.environ.get("POD_NAME") or socket.gethostname()
        try:
            said = self.clients().api.get_pod(name, deadline)
        except KubernetesAPIError as error:
            if not error.final:
                raise BootError(str(error), "create") from error
            said, why = None, str(error)
        else:
            why = f"there is no Pod {name} in {self.access.namespace}: set POD_NAME from the field metadata.name"
        if said is None:
            logger.warning("the runners' Pods have no owner, and stay until their runners end: %s", why)
        else:
            self._owner = PodOwner(name, Pod.parse(said).uid)
        self._knows_owner = True
        return self._owner
