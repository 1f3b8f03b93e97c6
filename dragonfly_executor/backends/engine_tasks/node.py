"""`EngineTaskNode`: a runner's task in a cluster engine, as a node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from dragonfly_executor.backends.base import CancelToken, Node
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.engine_tasks.task import EngineTask
from dragonfly_executor.errors import BootError

STOP_TIMEOUT = 10.0
"""Seconds that a stop may take. A runner that the engine does not stop ends by itself, as its link has ended."""
GRACE = 2.0
"""Seconds that a runner has to end by itself, once its link is closed."""
GRACE_WITHOUT_SLOTS = 0.2
"""Seconds that a runner without slots has: it has nothing to end first."""

T = TypeVar("T", bound=EngineTask)


class EngineTaskNode(Node, Generic[T]):
    """A task that has a worker, or waits for one.

    Args:
        task: the runner's task.
        shares_disk: whether the workers see the files of this machine.
        on_stopped: called once, when the node is stopped.
    """

    def __init__(self, task: T, *, shares_disk: bool, on_stopped: Callable[[], object]) -> None:
        self.task = task
        self.shares_disk = shares_disk
        self._on_stopped = on_stopped
        self._stopped = CancelToken()

    def placed(self) -> None:
        """Take over what the task says about its worker, if it has one."""
        raise NotImplementedError

    def ended(self, wait: float) -> BootError | None:
        """See `Node.ended`."""
        Deadline(wait, self._stopped, self.task.ended).pause(wait)
        if not self.task.ended.is_set() or self._stopped.is_set():
            return None
        return self.error_of_end("connect")

    def error_of_end(self, phase: str) -> BootError:
        """Return the error of a boot whose runner has ended."""
        return BootError(self.task.error, phase, output=self.task.output, final=self.task.is_final)

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """See `Node.stop`.

        Args:
            timeout: seconds that it may take. After that a warning names the task.
        """
        if self._stopped.is_set():
            return
        self._stopped.set()
        grace = 0.0 if self.is_silent else GRACE if self.sessions else GRACE_WITHOUT_SLOTS
        try:
            self._stop_task(grace, timeout)
        finally:
            self._on_stopped()

    def _stop_task(self, grace: float, timeout: float) -> None:
        """Have the engine stop the task. Never raises.

        Args:
            grace: seconds that the runner has to end by itself.
            timeout: seconds that this may take.
        """
        raise NotImplementedError

    def output(self) -> str:
        """See `Node.output`."""
        return self.task.output
