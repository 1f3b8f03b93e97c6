"""`RunnerTasks`: the runners of one connection, as tasks on workers of a Dask cluster. One runner per worker."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from dragonfly_executor.backends.dask.runner_task import RunnerTask, State
from dragonfly_executor.backends.dask.scheduler import Connection, DaskError, Worker
from dragonfly_executor.backends.dask.tasks import runner_task, stop_task, worker_wanted
from dragonfly_executor.backends.dask.wanted import Wanted

CHECK_EVERY = 5.0
"""Seconds between two checks for a free worker. Dask announces new workers, but not that a paused one resumes."""
CLOSE_GRACE = 20.0
"""Seconds that a runner's calls have to finish when Dask closes the worker in order.

`dask/worker.py` has the same number: this module can be imported without Dask, and that one on a worker.
"""


class RunnerTasks:
    """Places runners on workers, and follows them. Its coroutines run on the connection's loop.

    Args:
        address: the scheduler's.
        security: for TLS; a `distributed.Security` or None.
    """

    def __init__(self, address: str, security: Any) -> None:
        self._topic = f"dragonfly-{os.urandom(6).hex()}"
        self.connection = Connection(address, security, self._topic, self._started, self)
        self._tasks: dict[str, RunnerTask] = {}
        """By key, in the order of arrival."""
        self._placer: asyncio.Task[None] | None = None
        self._workers_changed = asyncio.Event()
        self._wanted_worker: Any = None
        """The future of the task that has adaptive scaling start a worker, while the cluster has none."""

    @property
    def is_broken(self) -> bool:
        """Return True if the connection was lost."""
        return self.connection.is_broken

    def close(self) -> None:
        """Close the connection. Blocks, for some seconds at most."""
        self.connection.close()

    def worker_names(self) -> list[str]:
        """Return the names of the workers that have runners, or get one. Any thread."""
        tasks = [*self._tasks.values()]
        return [task.worker.name for task in tasks if task.worker is not None]

    # -- events of the cluster -----------------------------------------------------------------------------------------

    def _started(self, message: Any) -> None:
        """Take an event of the topic: a worker has started a runner."""
        task = self._tasks.get(message["key"])
        if task is not None and task.state is State.SUBMITTED:
            task.start(message["pid"])
            lifetime = message["lifetime"]
            if lifetime is not None:
                task.ending(lifetime + CLOSE_GRACE, f"{task.place} has reached its lifetime (dask worker --lifetime)")

    def worker_came(self) -> None:
        """See `WorkerEvents`."""
        self._workers_changed.set()

    def worker_left(self, address: str, *, expected: bool) -> None:
        """See `WorkerEvents`."""
        self._workers_changed.set()
        for task in self._tasks_on(address):
            if task.state is State.SUBMITTED:
                asyncio.ensure_future(self._withdraw(task))  # noqa: RUF006
            elif task.state is State.STARTED:
                if expected:
                    task.ending(CLOSE_GRACE, f"{task.place} was retired")
                task.end(f"{task.place} {'was retired' if expected else 'has left the cluster without notice'}")
                # Dask would run the task again on another worker.
                asyncio.ensure_future(self._withdraw(task))  # noqa: RUF006

    def worker_out_of_memory(self, address: str, rss: int) -> None:
        """See `WorkerEvents`."""
        for task in self._tasks_on(address):
            used = f"its own process used {rss / 2**20:.0f} MiB, too much for its memory limit"
            task.end(f"{task.place} was restarted by its nanny: {used}")

    def _tasks_on(self, address: str) -> list[RunnerTask]:
        return [task for task in self._tasks.values() if task.worker is not None and task.worker.address == address]

    # -- to a worker ---------------------------------------------------------------------------------------------------

    def queue(self, task: RunnerTask) -> None:
        """Have a task wait for a worker. Any thread."""
        self.connection.thread.loop.call_soon_threadsafe(self._queue, task)

    def _queue(self, task: RunnerTask) -> None:
        self._tasks[task.key] = task
        self._workers_changed.set()
        if self._placer is None or self._placer.done():
            self._placer = asyncio.ensure_future(self._place_all())

    def _waiting(self) -> list[RunnerTask]:
        return [task for task in self._tasks.values() if task.state is State.WAITING]

    async def _place_all(self) -> None:
        """Place tasks for as long as any waits. Ends all that wait if the scheduler cannot be asked."""
        try:
            while self._waiting():
                self._workers_changed.clear()
                workers = await self.connection.workers()
                self._place(workers)
                await self._want_worker(workers)
                if self._waiting():
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._workers_changed.wait(), CHECK_EVERY)
        except Exception as error:  # Dask's own as well
            text = str(error) if isinstance(error, DaskError) else f"Dask failed: {type(error).__name__}: {error}"
            for task in self._waiting():
                task.end(text)

    def _place(self, workers: Sequence[Worker]) -> None:
        """Give free workers to the tasks that wait, in order of arrival. A worker is free if it has no runner."""
        used = {task.worker.address for task in self._tasks.values() if task.worker is not None}
        free = {worker.address: worker for worker in workers if worker.address not in used}
        for task in self._waiting():
            fitting = [worker for worker in free.values() if task.wanted.fits(worker)]
            if fitting:
                surplus = task.wanted.surplus
                best = min(fitting, key=lambda worker: (surplus(worker), worker.executing, worker.address))
                try:
                    self._submit(task, best)
                except (TypeError, ValueError) as error:
                    task.end(f"Dask refuses the runner's task: {error}", is_final=True)
                else:
                    del free[best.address]
            if not free:
                break
        waiting = self._waiting()
        for task in waiting:
            task.standing = task.wanted.standing(workers, len(waiting))

    def _submit(self, task: RunnerTask, worker: Worker) -> None:
        from dask.base import annotate

        function = runner_task(task.key, self._topic, task.order)
        with annotate(**task.wanted.annotations):
            future = self.connection.opened.submit(
                function,
                key=task.key,
                pure=False,
                resources=task.wanted.resources or None,
                workers=[worker.address],
                allow_other_workers=False,
            )
        task.submitted(worker, future)
        task.watcher = asyncio.ensure_future(_watch(task, future))

    async def _want_worker(self, workers: Sequence[Worker]) -> None:
        """Keep a task waiting in Dask while the cluster has no worker: adaptive scaling starts one for it."""
        waiting = [] if workers else self._waiting()
        if bool(waiting) == (self._wanted_worker is not None):
            return
        if waiting:
            self._wanted_worker = self._submit_wanted(waiting[0].wanted)
        else:
            future, self._wanted_worker = self._wanted_worker, None
            await self.connection.cancel(future)

    def _submit_wanted(self, wanted: Wanted) -> Any:
        from dask.base import annotate

        key = f"dragonfly-worker-wanted-{os.urandom(6).hex()}"
        with annotate(**wanted.annotations):
            return self.connection.opened.submit(
                worker_wanted(), key=key, pure=False, resources=wanted.resources or None
            )

    async def _withdraw(self, task: RunnerTask) -> None:
        """Take back the task of a worker that has gone. If it had not begun there, it waits again."""
        # A scheduler that is lost has lost the task, and `_watch` notes that.
        with suppress(DaskError):
            await self._forget_future(task)
        if task.state is State.SUBMITTED:
            task.worker, task.state = None, State.WAITING
            self._queue(task)

    # -- the end -------------------------------------------------------------------------------------------------------

    async def stop(self, task: RunnerTask, grace: float, sessions: Sequence[int]) -> None:
        """Stop a runner, wherever it is.

        Args:
            task: of the runner.
            grace: seconds that it has to end by itself.
            sessions: process session ids of its slots.

        Raises:
            DaskError: the scheduler cannot be reached.
        """
        if task.state is State.WAITING:
            task.end("the runner was stopped before it had a worker")
        try:
            if task.future is not None and task.worker is not None:
                if task.exit_code != 0:
                    # This also prevents the start of a task that the worker has not begun.
                    await self.connection.run(stop_task(task.key, grace, sessions), task.worker.address)
                await self._forget_future(task)
        finally:
            self._tasks.pop(task.key, None)
            self._workers_changed.set()
            if not self._waiting():
                await self._want_worker([])

    async def _forget_future(self, task: RunnerTask) -> None:
        """Have Dask drop the task."""
        if task.watcher is not None:
            task.watcher.cancel()
        if task.future is not None:
            future, task.future = task.future, None
            await self.connection.cancel(future)


async def _watch(task: RunnerTask, future: Any) -> None:
    """Wait for the end of the task, and note it."""
    try:
        result = await future
    except asyncio.CancelledError:
        # `_forget_future` has ended this wait, and cancels the future itself.
        if task.future is not future or future.status not in ("cancelled", "lost"):
            raise
        task.end("the connection to the Dask scheduler was lost, or the runner's task was cancelled")
    except Exception as error:  # Dask's own, and whatever a worker raises
        task.end(f"{task.place} did not run the runner's task: {type(error).__name__}: {error}")
    else:
        task.take_result(result)
