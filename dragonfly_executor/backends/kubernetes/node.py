"""`KubernetesNode`: a runner's Pod, as the parent holds it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection
from typing import Protocol

from dragonfly_executor.backends.base import BootRequest, CancelToken, Node
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.kubernetes.answers import KubernetesAPIError
from dragonfly_executor.backends.kubernetes.client import KubernetesAPI
from dragonfly_executor.backends.kubernetes.pod import Pod
from dragonfly_executor.backends.kubernetes.pod_watch import FollowedPod, PodWatch
from dragonfly_executor.backends.kubernetes.reasons import LOST_NODES
from dragonfly_executor.errors import BootError, BootTimeoutError

logger = logging.getLogger("dragonfly_executor")

STOP_TIMEOUT = 30.0
"""Seconds in which a Pod must be gone after its deletion. A node ends a Pod within its grace period and a moment."""
QUEUED_STOP_TIMEOUT = 5.0
"""Seconds for that if the Pod waits for a node. A later sweep deletes a Pod that could not be deleted in this time."""
QUEUED_WAIT = 1.0
"""Seconds in which a Pod that waited for a node must be seen to be gone. A pool that ends waits for this."""
LOST_TIMEOUT = 3.0
"""Seconds for that if the node is lost: it confirms nothing, and the runner counts toward ``max`` meanwhile."""
KILL_AFTER = 1
"""Seconds between SIGTERM and SIGKILL for a Pod that the pool stops: its runner has ended, or must not go on."""
LATE_CREATION = 0.5
"""Seconds to wait for a Pod whose create request got no answer."""
LOSS_WAIT = 3.0
"""Seconds to wait for the reason why a runner was lost. A node reports the end of a container within about 1 s."""


class StopHandler(Protocol):
    """A function that is called at the end of a node's `stop`."""

    def __call__(self, node: KubernetesNode, *, is_gone: bool) -> None:
        """Handle the end of `stop`."""


class KubernetesNode(Node):
    """A Pod that waits for a node, has one, or had one.

    Args:
        name: the Pod's name.
        api: the API server. It is in use until the node is stopped.
        watch: shows the Pod.
        request: is notified when the Pod has a node, and reports that its runner has dialed back.
        queue_timeout: seconds that the Pod may wait for a node.
    """

    shares_disk = False
    stopper = "Kubernetes (kubectl delete or drain, an eviction, a preemption, or the Pod's max_lifetime)"
    stop_advice = "KubernetesBackend(max_lifetime=) gives Pods more time, and a PodDisruptionBudget delays evictions"

    def __init__(
        self, name: str, api: KubernetesAPI, watch: PodWatch, request: BootRequest, queue_timeout: float
    ) -> None:
        self.name = name
        self.uid: str | None = None
        self.may_exist = False
        """True if a create request may have been carried out."""
        self._api = api
        self._watch = watch
        self._lock = threading.Lock()
        self._stopping = CancelToken()
        self._request = request
        self._queue_timeout, self._in_queue = queue_timeout, Deadline(queue_timeout)
        self._when_stopped: StopHandler | None = None
        api.__enter__()
        self.followed: FollowedPod = watch.follow(name)

    def __repr__(self) -> str:
        return f"KubernetesNode({self.name!r})"

    @property
    def pod(self) -> Pod | None:
        """Return the Pod as last seen; None if it was not seen yet."""
        return self.followed.pod

    def call_when_stopped(self, then: StopHandler) -> None:
        """Call `then` at the end of `stop`, once, with whether the Pod is gone or its deletion was accepted."""
        self._when_stopped = then

    def was_created(self, pod: Pod) -> None:
        """Take the Pod from the answer to its create request."""
        self.uid = pod.uid or None
        self._watch.created(self.name, pod)

    def wait_in_queue(self) -> None:
        """Let the Pod, which was created, wait for its node. The boot's timer starts when the Pod has one."""
        self.is_queued = True
        self._in_queue = Deadline(self._queue_timeout)
        self.followed.on_change = self._look
        if self._request.dialed_in is not None:
            self._request.dialed_in.call(self._has_started)
        self._look()

    def _look(self) -> None:
        pod = self.pod
        if pod is None:
            return
        if self.is_queued and pod.is_scheduled:
            self._has_started()
        if pod.is_deleted or pod.has_ended or pod.is_disrupted:
            # The cluster says in the Pod's status who ends it.
            self.stopper = f"Kubernetes (Pod {self.name} {pod.end()})"

    def _has_started(self) -> None:
        with self._lock:
            if not self.is_queued:
                return
            self.is_queued = False
        pod = self.pod
        if pod is not None and pod.node:
            self.host = pod.node
            self.facts = {"create": f"Pod {self.name}", "queue": f"on {pod.node}"}
        self._request.started()

    def progress(self) -> str:
        """See `Node.progress`."""
        return self.standing()

    def failure(self) -> BootError | None:
        """Return the error of a runner that will not come, as far as is known now."""
        if self.followed.is_gone:
            said = f"Pod {self.name} is gone" if self.pod is None else f"Pod {self.name} {self.pod.end()}"
            return BootError(said, "start" if self.pod and self.pod.is_scheduled else "queue", output=self.output())
        if self.followed.refusal is not None and self.followed.refusal.final:
            return BootError(str(self.followed.refusal), "create", final=True)
        failure = None if self.pod is None else self.pod.failure()
        if failure is None:
            if not self.is_queued or not self._in_queue.is_over:
                return None
            text = f"{self.standing()}. The Pod got no node within {self._queue_timeout:g} s (queue_timeout)"
            return BootTimeoutError(text, "queue")
        return BootError(failure.text, failure.phase, output=failure.output, final=failure.final)

    def ended(self, wait: float) -> BootError | None:
        """See `Node.ended`."""
        seconds = self._in_queue.left(wait) if self.is_queued else wait
        self.followed.wait(lambda _: self.failure(), Deadline(seconds, self._stopping))
        return None if self._stopping.is_set() else self.failure()

    def explain_loss(self) -> str:
        """See `Node.explain_loss`."""

        def has_ended(followed: FollowedPod) -> bool:
            pod = followed.pod
            return followed.is_gone or (pod is not None and (pod.is_deleted or pod.has_ended))

        self.followed.wait(has_ended, Deadline(LOSS_WAIT, self._stopping))
        pod = self.pod
        if pod is None:
            return ""
        if has_ended(self.followed):
            return f"Pod {self.name} {pod.end()}"
        return f"{self.standing()}: check that node, and the network between it and this program"

    def standing(self) -> str:
        """Return how the Pod stands, and whether the API server shows it, for people who wait for it."""
        said = f"Pod {self.name} has not been seen yet" if self.pod is None else self.pod.standing()
        if self.is_queued and self._request.requires is not None:
            said = f"{said}. The calls that wait for it require {self._request.requires}"
        return said if self.followed.refusal is None else f"{said}. {self.followed.refusal}"

    def output(self) -> str:
        """Return the end of what the runner has written, or how its Pod stands."""
        if self.pod is None or self.followed.is_gone:
            return "" if self.pod is None else self.pod.output()
        return self.pod.output() or self.standing()

    def descriptors(self) -> Collection[int]:
        """See `Node.descriptors`."""
        return self._watch.descriptors()

    def stop(self, timeout: float | None = None) -> None:
        """Delete the Pod, and wait until its processes have ended.

        Args:
            timeout: seconds for that. After that a warning names the Pod. Default: depends on the state of the Pod.
        """
        if timeout is None:
            timeout = QUEUED_STOP_TIMEOUT if self.is_queued else STOP_TIMEOUT
        with self._lock:
            if self._stopping.is_set():
                return
            self._stopping.set()
        deadline, is_gone = Deadline(timeout), False
        try:
            if self.may_exist:
                self._delete(deadline)
            is_gone = True
        except KubernetesAPIError as error:
            logger.warning("Pod %s may still exist: %s. Remove it with kubectl delete pod %s", *self._named(error))
        except Exception:
            logger.exception("Pod %s may not have been deleted", self.name)
        finally:
            self._watch.leave(self.name)
            self._api.__exit__(None, None, None)
            if self._when_stopped is not None:
                self._when_stopped(self, is_gone=is_gone)

    def _named(self, error: KubernetesAPIError) -> tuple[str, str, str]:
        return self.name, str(error).rstrip("."), self.name

    def _delete(self, deadline: Deadline) -> None:
        if self.uid is None:
            # The server may still carry out a create request whose answer was lost. The watch then shows the Pod.
            self.followed.wait(lambda followed: followed.pod is not None, deadline.part(LATE_CREATION))
        pod = self.pod
        # A Pod without a node has no process.
        grace = 0 if pod is None or not pod.is_scheduled else KILL_AFTER
        if not self._api.delete_pod(self.name, self.uid, grace, deadline):
            return
        if self.is_queued:
            # It runs nowhere as far as is known, so the API server has removed it at once.
            deadline = deadline.part(QUEUED_WAIT)
        seconds = LOST_TIMEOUT if self._node_is_lost() else STOP_TIMEOUT
        if not self.followed.wait(lambda followed: followed.is_gone, deadline.part(seconds)):
            logger.warning(
                "the deletion of Pod %s was accepted, but %s has not confirmed that its processes have ended. The "
                "cluster removes the Pod when it hears of that node again", self.name, self.host or "its node",
            )  # fmt: skip

    def _node_is_lost(self) -> bool:
        pod = self.pod
        # The runner was silent, or the cluster evicts the Pod because its node is.
        return self.is_silent or (pod is not None and pod.condition("DisruptionTarget").get("reason") in LOST_NODES)
