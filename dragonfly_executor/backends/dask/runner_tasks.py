"""`RunnerTasks`: the runners of one connection, as tasks on workers of a Dask cluster. One runner per worker."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Mapping, Sequence
from enum import Enum, auto
from typing import Any

from dragonfly_executor.backends.dask.scheduler import Connection, Worker
from dragonfly_executor.backends.dask.tasks import runner_task, stop_task
from dragonfly_executor.backends.engine_tasks.task import EngineTask

CHECK_EVERY = 5.0
"""Seconds between two checks for a free worker. Dask announces new workers, but not that a paused one resumes."""


class State(Enum):
    """The state of a runner's task."""

    WAITING = auto()
    STARTED = auto()
    UNPLACED = auto()
    """Its worker left before the task began there."""
    ENDED = auto()


class Wanted:
    """Conditions that a worker must meet to get a runner.

    Args:
        resources: amounts by name, which the task takes from the worker for as long as it runs.
        workers: addresses, names or hosts of the workers that may be used; None for all.
        annotations: of the task, for Dask.
    """

    def __init__(
        self, resources: Mapping[str, float], workers: Collection[str] | None, annotations: Mapping[str, Any]
    ) -> None:
        self.resources, self.workers, self.annotations = dict(resources), workers, dict(annotations)

    def fits(self, worker: Worker) -> bool:
        """Return True if this worker may get a runner."""
        if self.workers is not None and not {worker.address, worker.name, worker.host} & set(self.workers):
            return False
        return all(worker.resources.get(name, 0) >= amount for name, amount in self.resources.items())


class RunnerTask(EngineTask):
    """A runner's task. Its attributes change on the connection's loop.

    Args:
        key: the task's name in Dask.
        order: the arguments for `AgentProcess` on the worker.

    Attributes:
        worker: the worker that was chosen. None before, and for a task that Dask gives to any worker.
        address: the address of the worker that has begun the task; before that, of the one that was chosen.
    """

    def __init__(self, key: str, order: Mapping[str, Any]) -> None:
        super().__init__(key, order)
        self.worker: Worker | None = None
        self.address: str | None = None
        self.state = State.WAITING
        self.future: Any = None
        self.watcher: asyncio.Task[None] | None = None
        self._state_changed = asyncio.Event()

    def start(self, address: str, pid: int) -> None:
        """Note that a worker has started the runner."""
        self.address, self.pid = address, pid
        self.move(State.STARTED)
        self.begun.set()

    def end(self, error: str, output: str = "", *, is_final: bool = False) -> None:
        """See `EngineTask.end`."""
        super().end(error, output, is_final=is_final)
        self.move(State.ENDED)

    def move(self, state: State) -> None:
        """Change the state, and wake `left_waiting`."""
        self.state = state
        self._state_changed.set()

    async def left_waiting(self) -> None:
        """Wait until the state is not `State.WAITING`."""
        while self.state is State.WAITING:
            self._state_changed.clear()
            await self._state_changed.wait()

    @property
    def place(self) -> str:
        """Return the worker, for people to read."""
        return f"Dask worker {self.address}" if self.address else "a Dask worker"


class RunnerTasks:
    """Places runners on workers, and follows them. Its coroutines run on the connection's loop.

    Args:
        address: the scheduler's.
        security: for TLS; a `distributed.Security` or None.
    """

    def __init__(self, address: str, security: Any) -> None:
        self._topic = f"dragonfly-{os.urandom(6).hex()}"
        self.connection = Connection(address, security, self._topic, self._started, self._on_workers)
        self._tasks: dict[str, RunnerTask] = {}
        self._turn = asyncio.Lock()
        self._workers_changed = asyncio.Event()

    def _started(self, message: Any) -> None:
        """Take an event of the topic: a worker has started a runner."""
        task = self._tasks.get(message["key"])
        if task is not None and task.state is State.WAITING:
            task.start(message["worker"], message["pid"])

    def _on_workers(self, gone: str | None) -> None:
        """Take an event of the cluster: a worker has come, or the one with this address has gone."""
        self._workers_changed.set()
        for task in [task for task in self._tasks.values() if gone is not None and task.address == gone]:
            if task.state is State.STARTED:
                task.end(f"{task.place} has left the cluster")
            elif task.state is State.WAITING:
                task.move(State.UNPLACED)

    @property
    def is_broken(self) -> bool:
        """Return True if the connection was lost for good."""
        return self.connection.is_broken

    def close(self) -> None:
        """Close the connection. Blocks, for some seconds at most."""
        self.connection.close()

    def worker_names(self) -> list[str]:
        """Return the names of the workers that have runners, or get one. Any thread."""
        tasks = [*self._tasks.values()]
        return [task.worker.name for task in tasks if task.worker is not None]

    async def place(self, task: RunnerTask, wanted: Wanted) -> None:
        """Wait for a free worker, and start the runner there. Return when it has started or ended.

        Raises:
            DaskError: the scheduler does not answer.
        """
        self._tasks[task.key] = task
        while True:
            # In order of arrival: a worker that has become free goes to the boot that waits longest.
            async with self._turn:
                task.worker = await self._free_worker(wanted)
                task.address = None if task.worker is None else task.worker.address
                if task.worker is None:
                    # Adaptive scaling starts a worker for a task that waits. The lock keeps other boots off the worker.
                    await self._run(task, wanted)
            if task.worker is not None:
                await self._run(task, wanted)
            if task.state is not State.UNPLACED:
                return
            await self._forget_future(task)
            task.state = State.WAITING

    async def _free_worker(self, wanted: Wanted) -> Worker | None:
        """Return a worker without a runner. Return None if the cluster has no worker at all."""
        while True:
            self._workers_changed.clear()
            workers = await self.connection.workers()
            if not workers:
                return None
            used = {task.address for task in self._tasks.values()}
            free = [worker for worker in workers if worker.address not in used and wanted.fits(worker)]
            if free:
                return min(free, key=lambda worker: (worker.executing, worker.address))
            try:
                await asyncio.wait_for(self._workers_changed.wait(), CHECK_EVERY)
            except TimeoutError:
                continue

    async def _run(self, task: RunnerTask, wanted: Wanted) -> None:
        """Submit the task, and wait until it has begun or cannot begin."""
        from dask.base import annotate

        client = await self.connection.client()
        where = {} if task.worker is None else {"workers": [task.worker.address], "allow_other_workers": False}
        if task.worker is None and wanted.workers is not None:
            where = {"workers": [*wanted.workers], "allow_other_workers": False}
        function = runner_task(task.key, self._topic, task.order)
        with annotate(**wanted.annotations):
            task.future = client.submit(function, key=task.key, pure=False, resources=wanted.resources or None, **where)
        task.watcher = asyncio.ensure_future(_watch(task, task.future))
        await task.left_waiting()

    async def stop(self, task: RunnerTask, grace: float, sessions: Sequence[int]) -> None:
        """Stop a runner, wherever it is.

        Args:
            task: of the runner.
            grace: seconds that it has to end by itself.
            sessions: process session ids of its slots.

        Raises:
            DaskError: the scheduler cannot be reached.
        """
        try:
            if task.future is not None:
                if task.address is None:
                    # A worker may have begun the task without its event having arrived. `stop_task` ends the runner
                    # there, and prevents its start on the other workers.
                    await self._forget_future(task)
                    for worker in await self.connection.workers():
                        await self.connection.run(stop_task(task.key, grace, sessions), worker.address)
                elif task.exit_code != 0:
                    await self.connection.run(stop_task(task.key, grace, sessions), task.address)
                await self._forget_future(task)
        finally:
            self._tasks.pop(task.key, None)
            self._workers_changed.set()

    async def _forget_future(self, task: RunnerTask) -> None:
        """Have Dask drop the task."""
        if task.watcher is not None:
            task.watcher.cancel()
        if task.future is not None:
            future, task.future = task.future, None
            client = await self.connection.client()
            await client.cancel([future], force=True)


async def _watch(task: RunnerTask, future: Any) -> None:
    """Wait for the end of the task, and note it."""
    try:
        result = await future
    except asyncio.CancelledError:
        if future.status not in ("cancelled", "lost"):
            raise
        if task.state is State.WAITING:
            task.end("the connection to the Dask scheduler was lost, or the runner's task was cancelled")
    except Exception as error:  # Dask's own, and whatever a worker raises
        task.end(f"{task.place} did not run the runner's task: {type(error).__name__}: {error}")
    else:
        task.take_result(result)
