"""A runner's task on a worker of a Dask cluster, as a node."""

from __future__ import annotations

import logging
from collections.abc import Callable

from dragonfly_executor.backends.base import BootRequest
from dragonfly_executor.backends.dask.runner_task import RunnerTask
from dragonfly_executor.backends.dask.runner_tasks import RunnerTasks
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.engine_tasks.node import EngineTaskNode

logger = logging.getLogger("dragonfly_executor")


class DaskNode(EngineTaskNode[RunnerTask]):
    """A task that has a worker, or waits for one.

    Args:
        task: the runner's task.
        tasks: all tasks of the connection.
        request: see `EngineTaskNode`.
        shares_disk: whether the workers see the files of this machine.
        scaling: how the cluster is scaled, for people to read; "" if it is not known.
        on_stopped: called once, when the node is stopped.
    """

    stopper = "Dask (its worker was retired, restarted or lost)"
    stop_advice = "see why Dask closed the worker: its memory limit, the cluster's scaling, a job's time limit"

    def __init__(
        self,
        task: RunnerTask,
        tasks: RunnerTasks,
        request: BootRequest,
        *,
        shares_disk: bool,
        scaling: str,
        on_stopped: Callable[[], object],
    ) -> None:
        super().__init__(task, request, shares_disk=shares_disk, on_stopped=on_stopped)
        self._tasks = tasks
        self._scaling = scaling

    def __repr__(self) -> str:
        return f"DaskNode({self.task.key!r}, {self.task.place})"

    def placed(self) -> None:
        """See `EngineTaskNode.placed`."""
        worker = self.task.worker
        if worker is not None:
            self.host, self.default_slots = worker.host, worker.threads
            self.capacity = self.task.wanted.capacity(worker)
            self.facts = {"queue": f"worker {worker.name} at {worker.address}, {worker.threads} threads"}

    def progress(self) -> str:
        """See `Node.progress`."""
        return "; ".join(filter(None, (self.task.standing, self._scaling)))

    def _advice(self) -> str:
        return "start workers that fit workers=, resources= and the requirements of the calls, or raise queue_timeout"

    def _stop_task(self, grace: float, timeout: float) -> None:
        work = self._tasks.stop(self.task, grace, [*self.sessions])
        try:
            self._tasks.connection.thread.call(work, Deadline(timeout))
        except Exception as error:  # Dask's own as well: its client may end at any time
            if not self.task.ended.is_set():
                logger.warning(
                    "%s on %s may still run for some seconds: Dask did not stop it (%s)",
                    self.task.key,
                    self.task.place,
                    str(error) or type(error).__name__,
                )
