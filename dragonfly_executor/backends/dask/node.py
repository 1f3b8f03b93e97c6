"""A runner's task on a worker of a Dask cluster, as a node."""

from __future__ import annotations

import logging
from collections.abc import Callable

from dragonfly_executor.backends.base import CancelToken, Node
from dragonfly_executor.backends.dask.runner_tasks import RunnerTask, RunnerTasks
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.errors import BootError

logger = logging.getLogger("dragonfly_executor")

STOP_TIMEOUT = 10.0
"""Seconds that a stop may take. A runner that Dask does not stop ends by itself, as its link has ended."""
GRACE = 2.0
"""Seconds that a runner has to end by itself, once its link is closed."""
GRACE_WITHOUT_SLOTS = 0.2
"""Seconds that a runner without slots has: it has nothing to end first."""


class DaskNode(Node):
    """A task that has a worker, or waits for one.

    Args:
        task: the runner's task.
        tasks: all tasks of the connection.
        shares_disk: whether the workers see the files of this machine.
        on_stopped: called once, when the node is stopped.
    """

    stopper = "Dask (its worker was retired, restarted or lost)"
    stop_advice = "see why Dask closed the worker: its memory limit, the cluster's scaling, a job's time limit"

    def __init__(
        self,
        task: RunnerTask,
        tasks: RunnerTasks,
        *,
        shares_disk: bool,
        on_stopped: Callable[[], object],
    ) -> None:
        self.task = task
        self.shares_disk = shares_disk
        self._tasks = tasks
        self._on_stopped = on_stopped
        self._stopped = CancelToken()

    def __repr__(self) -> str:
        return f"DaskNode({self.task.key!r} on {self.task.address})"

    def placed(self) -> None:
        """Take over what the worker says about itself."""
        worker = self.task.worker
        if worker is not None:
            self.host, self.default_slots = worker.host, worker.threads
            self.facts = {"queue": f"worker {worker.name} at {worker.address}, {worker.threads} threads"}

    def ended(self, wait: float) -> BootError | None:
        """See `Node.ended`."""
        task = self.task
        Deadline(wait, self._stopped, task.ended).pause(wait)
        if not task.ended.is_set() or self._stopped.is_set():
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
        work = self._tasks.stop(self.task, grace, [*self.sessions])
        try:
            self._tasks.connection.thread.call(work, Deadline(timeout))
        except Exception as error:  # Dask's own as well: its client may end at any time
            if not self.task.ended.is_set():
                logger.warning(
                    "%s on %s may still run for some seconds: Dask did not stop it (%s)",
                    self.task.key,
                    self.task.place,
                    error or type(error).__name__,
                )
        finally:
            self._on_stopped()

    def output(self) -> str:
        """See `Node.output`."""
        return self.task.output
