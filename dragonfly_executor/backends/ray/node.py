"""A runner's actor in a Ray cluster, as a node."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from dragonfly_executor.backends.base import BootRequest
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.engine_tasks.node import EngineTaskNode
from dragonfly_executor.backends.ray.driver_process import DriverProcess
from dragonfly_executor.backends.ray.options import capacity_of, slots_of
from dragonfly_executor.backends.ray.runner_actor import RunnerActor

logger = logging.getLogger("dragonfly_executor")


class RayNode(EngineTaskNode[RunnerActor]):
    """An actor that has a node of the cluster, or waits for one.

    Args:
        actor: the runner's actor.
        driver: the process that creates and stops it.
        request: see `EngineTaskNode`.
        shares_disk: whether the cluster's nodes see the files of this machine.
        on_stopped: called once, when the node is stopped.
    """

    stopper = "Ray (its node or its actor was ended)"
    stop_advice = "see why Ray ended the actor: its memory monitor, the autoscaler, a node that was lost"

    def __init__(
        self,
        actor: RunnerActor,
        driver: DriverProcess,
        request: BootRequest,
        *,
        shares_disk: bool,
        on_stopped: Callable[[], object],
    ) -> None:
        super().__init__(actor, request, shares_disk=shares_disk, on_stopped=on_stopped)
        self._driver = driver
        self.capacity, self.default_slots = capacity_of(actor.options), slots_of(actor.options)

    def __repr__(self) -> str:
        return f"RayNode({self.task.key!r} on {self.task.host or 'no node'})"

    def placed(self) -> None:
        """See `EngineTaskNode.placed`."""
        if self.task.host:
            self.host = self.task.host
            self.facts = {"queue": f"node {self.task.node[:12]} at {self.task.host}"}

    def _advice(self) -> str:
        return "see `ray status`, start nodes that have the resources, or raise queue_timeout"

    def descriptors(self) -> Collection[int]:
        """See `Node.descriptors`."""
        return self._driver.descriptors()

    def _stop_task(self, grace: float, timeout: float) -> None:
        self._driver.stop(self.task, grace, [*self.sessions])
        Deadline(timeout, self.task.stopped).pause(timeout)
        if not self.task.stopped.is_set():
            logger.warning(
                "%s on %s may still run for some seconds: Ray did not stop it within %g s",
                self.task.key,
                self.task.place,
                timeout,
            )
        self._driver.forget(self.task)
