"""`RunnerTask`: the task of one runner in a Dask cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Any

from dragonfly_executor.backends.dask.scheduler import Worker
from dragonfly_executor.backends.dask.wanted import Wanted
from dragonfly_executor.backends.engine_tasks.task import EngineTask


class State(Enum):
    """The state of a runner's task."""

    WAITING = auto()  # no worker was chosen
    SUBMITTED = auto()  # Dask has the task, and its worker has not begun it
    STARTED = auto()
    ENDED = auto()


class RunnerTask(EngineTask):
    """A runner's task. Its attributes change on the connection's loop.

    Args:
        key: the task's name in Dask.
        order: the arguments for `AgentProcess` on the worker.
        wanted: what its worker must have.
        ending: see `EngineTask`.

    Attributes:
        worker: the worker that was chosen; None before.
        future: Dask's future of the task, while Dask has the task.
        watcher: waits for the task's result.
    """

    def __init__(
        self, key: str, order: Mapping[str, Any], wanted: Wanted, ending: Callable[[float, str], object]
    ) -> None:
        super().__init__(key, order, ending)
        self.wanted = wanted
        self.worker: Worker | None = None
        self.state = State.WAITING
        self.future: Any = None
        self.watcher: asyncio.Task[None] | None = None

    def submitted(self, worker: Worker, future: Any) -> None:
        """Note that Dask has the task, for this worker."""
        self.worker, self.future, self.state = worker, future, State.SUBMITTED
        self.standing = f"Dask worker {worker.name} at {worker.address} was chosen, and has not begun the task"

    def start(self, pid: int) -> None:
        """Note that the worker has started the runner."""
        self.pid, self.state = pid, State.STARTED
        self.begun.set()

    def end(self, error: str, output: str = "", *, is_final: bool = False) -> None:
        """See `EngineTask.end`."""
        self.state = State.ENDED
        super().end(error, output, is_final=is_final)

    @property
    def place(self) -> str:
        """Return the worker, for people to read."""
        return f"Dask worker {self.worker.address}" if self.worker else "a Dask worker"
