"""`Connection`: this process's own client of a Dask scheduler, on an event loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from dragonfly_executor.backends.dask.loop_thread import LoopThread
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.errors import DragonflyError

CONNECT_TIMEOUT = 10.0
"""Seconds within which the scheduler must be reached. Dask tries again until then."""
RESTARTS = "worker-restart-memory"
"""The topic of Dask's events under which a nanny tells that it restarts a worker."""
CLOSE_TIMEOUT = 1.5
"""Seconds for telling a scheduler goodbye. A boot that was cancelled must end within 2 s."""


class DaskError(DragonflyError):
    """Dask cannot be reached, or has refused a request."""


class Worker(NamedTuple):
    """A worker of the cluster, as the scheduler describes it.

    Attributes:
        address: such as "tcp://10.0.0.5:41234". A worker that is restarted has another one.
        name: the name that its cluster knows it by.
        host: its machine.
        threads: number of its threads.
        resources: what it declares, by name.
        executing: number of tasks that it runs.
        memory: bytes that it may use; 0 if it has no limit.
    """

    address: str
    name: str
    host: str
    threads: int
    resources: Mapping[str, float]
    executing: int
    memory: int = 0


class WorkerEvents(Protocol):
    """Hears what happens to the cluster's workers, on the connection's loop."""

    def worker_came(self) -> None:
        """Hear that there is one more worker."""

    def worker_left(self, address: str, *, expected: bool) -> None:
        """Hear that a worker has gone. It was expected if Dask has retired the worker."""

    def worker_out_of_memory(self, address: str, rss: int) -> None:
        """Hear that a nanny restarts a worker whose process used this number of bytes."""


class Connection:
    """A client of the scheduler on a loop of its own. All coroutines of this class run on that loop.

    It does not use the user's own client, because that may be closed, restarted or blocked at any time.

    Args:
        address: the scheduler's.
        security: for TLS; a `distributed.Security` or None.
        topic: the topic of Dask's events that `on_start` gets.
        on_start: called with the message of each event of `topic`.
        events: hears when workers come or go.
    """

    def __init__(
        self,
        address: str,
        security: Any,
        topic: str,
        on_start: Callable[[Any], None],
        events: WorkerEvents,
    ) -> None:
        self._address, self._security = address, security
        self._topic, self._on_start, self._events = topic, on_start, events
        self._client: Any = None
        self._is_open = False
        self._opening: asyncio.Task[Any] | None = None
        self.thread = LoopThread("dragonfly-dask")

    @property
    def is_broken(self) -> bool:
        """Return True if the client was connected and is not any more.

        It would connect again, but a scheduler that was started again knows neither its tasks nor its subscriptions.
        """
        return self._is_open and self._client.status != "running"

    async def client(self) -> Any:
        """Return the client, connected.

        Raises:
            DaskError: the scheduler cannot be reached.
        """
        if self.is_broken:
            raise DaskError(f"the connection to the Dask scheduler at {self._address} was lost")
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open())
        try:
            return await asyncio.shield(self._opening)
        except (OSError, TimeoutError, RuntimeError, ValueError) as error:
            raise DaskError(f"cannot connect to the Dask scheduler at {self._address}: {error}") from error

    async def _open(self) -> Any:
        from distributed import Client

        client = Client(
            self._address,
            security=self._security,
            timeout=CONNECT_TIMEOUT,
            asynchronous=True,
            set_as_default=False,
            name="dragonfly-executor",
        )
        self._client = client
        await client
        self._is_open = True
        client.subscribe_topic(self._topic, self._tell_start)
        client.subscribe_topic("all", self._tell_workers)
        client.subscribe_topic(RESTARTS, self._tell_restart)
        return client

    @property
    def opened(self) -> Any:
        """Return the client, which is connected: `workers` has just asked it."""
        return self._client

    async def cancel(self, future: Any) -> None:
        """Have Dask drop a task.

        Raises:
            DaskError: the scheduler cannot be reached.
        """
        client = await self.client()
        await client.cancel([future], force=True)

    async def _tell_start(self, event: Any) -> None:
        self._on_start(event[1])

    async def _tell_workers(self, event: Any) -> None:
        message = event[1]
        action = message.get("action") if isinstance(message, dict) else None
        if action == "add-worker":
            self._events.worker_came()
        elif action == "remove-worker":
            self._events.worker_left(message["worker"], expected=bool(message.get("expected")))

    async def _tell_restart(self, event: Any) -> None:
        message = event[1]
        self._events.worker_out_of_memory(message["worker"], message["rss"])

    async def workers(self) -> list[Worker]:
        """Return the workers that take tasks.

        Raises:
            DaskError: the scheduler cannot be reached.
        """
        client = await self.client()
        try:
            found = await client.scheduler.identity(n_workers=-1)
        except (OSError, TimeoutError) as error:
            raise DaskError(f"the Dask scheduler at {self._address} does not answer: {error}") from error
        return [
            Worker(
                address,
                str(worker["name"]),
                worker["host"],
                worker["nthreads"],
                worker["resources"],
                worker["metrics"].get("executing", 0),
                worker["memory_limit"] or 0,
            )
            for address, worker in found["workers"].items()
            if worker["status"] == "running"
        ]

    async def run(self, function: Callable[[Any], Awaitable[None]], worker: str) -> None:
        """Run a coroutine function on a worker. A worker that is gone is no error."""
        client = await self.client()
        with suppress(OSError, TimeoutError, ValueError, KeyError):
            await client.run(function, workers=[worker], on_error="ignore")

    def close(self) -> None:
        """Close the connection and end the loop's thread. Blocks, for some seconds at most."""
        with suppress(DaskError, OSError, TimeoutError):
            self.thread.call(self._close(), Deadline(CLOSE_TIMEOUT))
        self.thread.close()

    async def _close(self) -> None:
        if self._opening is not None and not self._opening.done():
            self._opening.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._opening
        if self._client is None:
            return
        if self._client.status == "running":
            # The scheduler tells the subscribers of "all" that a client leaves: this one could not be told.
            self._client.unsubscribe_topic("all")
        await self._client.close(CLOSE_TIMEOUT)
