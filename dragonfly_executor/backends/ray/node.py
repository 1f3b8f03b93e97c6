"""A runner's actor in a Ray cluster, as a node."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from dragonfly_executor.backends.base import CancelToken, Node
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.ray.driver_process import DriverProcess
from dragonfly_executor.backends.ray.runner_actor import RunnerActor
from dragonfly_executor.errors import BootError

logger = logging.getLogger("dragonfly_executor")

STOP_TIMEOUT = 10.0
"""Seconds that a stop may take. A runner that Ray does not stop ends by itself, as its link has ended."""
GRACE = 2.0
"""Seconds that a runner has to end by itself, once its link is closed."""
GRACE_WITHOUT_SLOTS = 0.2
"""Seconds that a runner without slots has: it has nothing to end first."""


class RayNode(Node):
    """An actor that has a node of the cluster, or waits for one.

    Args:
        actor: the runner's actor.
        driver: the process that creates and stops it.
        shares_disk: whether the cluster's nodes see the files of this machine.
        on_stopped: called once, when the node is stopped.
    """

    stopper = "Ray (its node or its actor was ended)"
    stop_advice = "see why Ray ended the actor: its memory monitor, the autoscaler, a node that was lost"

    def __init__(
        self, actor: RunnerActor, driver: DriverProcess, *, shares_disk: bool, on_stopped: Callable[[], object]
    ) -> None:
        self.actor = actor
        self.shares_disk = shares_disk
        self._driver = driver
        self._on_stopped = on_stopped
        self._stopped = CancelToken()

    def __repr__(self) -> str:
        return f"RayNode({self.actor.key!r} on {self.actor.host or 'no node'})"

    def placed(self) -> None:
        """Take over what the actor says about its node."""
        if self.actor.host:
            self.host = self.actor.host
            self.facts = {"queue": f"node {self.actor.node[:12]} at {self.actor.host}"}

    def descriptors(self) -> Collection[int]:
        """See `Node.descriptors`."""
        return self._driver.descriptors()

    def ended(self, wait: float) -> BootError | None:
        """See `Node.ended`."""
        Deadline(wait, self._stopped, self.actor.ended).pause(wait)
        if not self.actor.ended.is_set() or self._stopped.is_set():
            return None
        return self.error_of_end("connect")

    def error_of_end(self, phase: str) -> BootError:
        """Return the error of a boot whose runner has ended."""
        return BootError(self.actor.error, phase, output=self.actor.output, final=self.actor.is_final)

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """See `Node.stop`.

        Args:
            timeout: seconds that it may take. After that a warning names the actor.
        """
        if self._stopped.is_set():
            return
        self._stopped.set()
        grace = 0.0 if self.is_silent else GRACE if self.sessions else GRACE_WITHOUT_SLOTS
        self._driver.stop(self.actor, grace, [*self.sessions])
        Deadline(timeout, self.actor.stopped).pause(timeout)
        if not self.actor.stopped.is_set():
            logger.warning("%r may still run for some seconds: Ray did not stop it within %g s", self, timeout)
        self._driver.forget(self.actor)
        self._on_stopped()

    def output(self) -> str:
        """See `Node.output`."""
        return self.actor.output
