"""Functions that Dask runs on its workers.

They are nested functions, so they travel by value: Dask's scheduler, which unpickles tasks as well, needs no package
of ours. A function's closure holds its arguments: Dask logs the arguments of a task that fails, and one is the token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence


def runner_task(key: str, topic: str, order: Mapping[str, Any]) -> Callable[[], dict[str, Any]]:
    """Return the task that runs a runner on a worker until the runner ends.

    Args:
        key: the task's.
        topic: the topic of Dask's events under which the start is announced.
        order: the arguments for `AgentProcess`.
    """

    def dragonfly_runner() -> dict[str, Any]:
        """Run the runner until it ends, and return how it ended. Dask shows the name of this function."""
        try:
            from dragonfly_executor.backends.dask.worker import run_agent
        except ImportError as error:
            return {"failed": "no package", "error": str(error)}
        return run_agent(key, topic, order)

    return dragonfly_runner


def worker_wanted() -> Callable[[], None]:
    """Return a task that does nothing. While it waits, adaptive scaling sees that the cluster needs a worker."""

    def dragonfly_worker_wanted() -> None:
        """Do nothing. Dask shows the name of this function."""

    return dragonfly_worker_wanted


def stop_task(key: str, grace: float, sessions: Sequence[int]) -> Callable[[Any], Awaitable[None]]:
    """Return the coroutine function that stops a runner on a worker, for ``Client.run``.

    Args:
        key: of the runner's task.
        grace: seconds that the runner has to end by itself.
        sessions: process session ids of its slots.
    """

    async def stop_dragonfly_runner(dask_worker: Any) -> None:
        """Stop the runner on this worker, or prevent its start. Dask fills in `dask_worker` by its name."""
        try:
            from dragonfly_executor.backends.dask.worker import stop_agent
        except ImportError:
            return  # a worker without this package has no runner
        await stop_agent(dask_worker, key, grace, sessions)

    return stop_dragonfly_runner
