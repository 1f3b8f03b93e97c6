"""`DaskBackend`: runs each runner as a long-running task on a worker of a Dask cluster."""

from __future__ import annotations

import os
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from dragonfly_executor.backends.backend_check import BackendCheck
from dragonfly_executor.backends.base import BootRequest
from dragonfly_executor.backends.dask.cluster_scale import ClusterScale
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.engine_tasks.backend import EngineTaskBackend
from dragonfly_executor.backends.from_text import amounts, arguments_from_text
from dragonfly_executor.backends.own_address import address_toward
from dragonfly_executor.errors import BootError

if TYPE_CHECKING:
    from typing import Unpack

    from dragonfly_executor.backends.dask.node import DaskNode
    from dragonfly_executor.backends.dask.runner_tasks import RunnerTasks
    from dragonfly_executor.backends.dask.wanted import Wanted
    from dragonfly_executor.backends.tier_keywords import TierKeywords
    from dragonfly_executor.core.capacity import Capacity, Requirements
    from dragonfly_executor.sync.options import Sync
    from dragonfly_executor.util.validation import Seconds

CHECK_TIMEOUT = 15.0
"""Seconds for a check of the doctor. Dask tries for 10 s to connect."""
T = TypeVar("T")


class DaskBackend(EngineTaskBackend["RunnerTasks", "DaskNode"]):
    """Boots runners as tasks of a Dask cluster, one runner per worker.

    The workers must have this package, and must reach the machine of this program over the network: a runner dials back
    to it. A boot that waits for a worker is not late: `boot_timeout` counts from when a worker has begun the task. Dask
    may run other tasks on the same workers.

    Args:
        cluster: the scheduler's address, a `Client`, or a cluster object such as `LocalCluster` or `SLURMCluster`. A
            cluster object is scaled: it gets a worker for each runner that the pool boots, and loses it again. Workers
            that it had before stay. The backend opens its own connection to the scheduler.
        resources: what a runner takes from its worker, by Dask's names: ``{"GPU": 1}``.
        annotations: Dask's annotations of the tasks, such as ``{"priority": 10}``.
        workers: the addresses, names or hosts of the workers that may get a runner; None for all.
        security: a `distributed.Security` for an address whose scheduler speaks TLS.
        python: the interpreter of the runners on the workers; default: the worker's own.
        env: environment variables for the runners, in addition to the worker's own.
        host: the address of this machine that the workers dial; default: the one from which it reaches the scheduler.
        port: the port to listen on; default: any free port.
        queue_timeout: seconds (or a `timedelta`) that a boot may wait for a worker. Default: as long as it takes.
        sync: which files of this program are sent to the runners; see `SSHBackend`. None: no files, as the workers see
            this machine's files under the same paths.
        requirements: third-party packages to install on each node; see `SSHBackend`.
        labels: free labels of the runners, such as ``{"eu"}``.
        tier: `max`, `idle_shutdown_after` and `budget` of the runners of this backend; see `Backend.set_limits`.

    Raises:
        ImportError: `distributed` is not installed.
        TypeError, ValueError: an argument is invalid.
    """

    name = "dask"

    def __init__(
        self,
        cluster: Any,
        *,
        resources: Mapping[str, float] | None = None,
        annotations: Mapping[str, Any] | None = None,
        workers: Collection[str] | str | None = None,
        security: Any = None,
        python: str | None = None,
        env: Mapping[str, str] | None = None,
        host: str | None = None,
        port: int = 0,
        queue_timeout: Seconds | None = None,
        sync: Sync | str | Iterable[str | os.PathLike[str]] | None = "auto",
        requirements: Iterable[str] | str | os.PathLike[str] | None = None,
        labels: Iterable[str] = (),
        **tier: Unpack[TierKeywords],
    ) -> None:
        _check_installed()
        super().__init__(
            python=python,
            env=env,
            host=host,
            port=port,
            queue_timeout=queue_timeout,
            sync=sync,
            requirements=requirements,
            labels=labels,
            **tier,
        )
        self._address, found_security = _address_of(cluster)
        self._security = security or found_security
        self._cluster = cluster if hasattr(cluster, "scale") else None
        self._scale = None if self._cluster is None else ClusterScale(cluster)
        self._resources, self._annotations = _amounts(resources or {}), dict(annotations or {})
        self._workers = [workers] if isinstance(workers, str) else workers

    @classmethod
    def from_text(cls, address: str, **settings: str) -> DaskBackend:
        """Make a backend from texts, as a command line gives them.

        Args:
            address: the scheduler's.
            settings: other arguments of the class; `resources` as Dask's own command line takes them: "GPU=1 MEM=4e9".

        Raises:
            ImportError, TypeError, ValueError: see the class.
        """
        return cls(address, **arguments_from_text(settings, resources=amounts))

    def __repr__(self) -> str:
        return f"DaskBackend({self._address!r})"

    def capacities(self) -> Sequence[Capacity]:
        """See `Backend.capacities`. Which workers may join is known only for Dask's own kinds of cluster object."""
        from dragonfly_executor.backends.dask.cluster_capacity import capacities_of

        return [] if self._cluster is None else capacities_of(self._cluster, self.labels)

    def checks(self) -> Iterable[BackendCheck]:
        """See `Backend.checks`: the scheduler, and the workers that a runner may get."""
        client = self._shared.acquire()
        try:
            yield self._check_workers(client)
        finally:
            self._shared.release(client)

    def _check_workers(self, client: RunnerTasks) -> BackendCheck:
        from dragonfly_executor.backends.dask.scheduler import DaskError

        try:
            workers = self._ask(client, client.connection.workers(), Deadline(CHECK_TIMEOUT))
        except DaskError as error:
            advice = "see that the scheduler runs, and that its port is open from here"
            return BackendCheck("workers", False, str(error), advice)
        return BackendCheck("workers", True, self._wanted(None).census(workers))

    def _ask(self, client: RunnerTasks, question: Coroutine[Any, Any, T], deadline: Deadline) -> T:
        """Return what a coroutine of the connection returns.

        Raises:
            DaskError: the scheduler cannot be reached, or does not answer in time.
        """
        from dragonfly_executor.backends.dask.scheduler import DaskError

        try:
            return client.connection.thread.call(question, deadline)
        except TimeoutError as error:
            raise DaskError(str(error) or f"the Dask scheduler at {self._address} did not answer") from error

    def _wanted(self, required: Requirements | None) -> Wanted:
        """Return what a worker must have to get the runner of calls with these requirements."""
        from dragonfly_executor.backends.dask.wanted import Wanted

        return Wanted(self._resources, self._workers, self._annotations, required, self.labels)

    def _own_address(self) -> str:
        return _own_address(self._address)

    def _make_node(self, client: RunnerTasks, request: BootRequest) -> DaskNode:
        from dragonfly_executor.backends.dask.node import DaskNode
        from dragonfly_executor.backends.dask.runner_task import RunnerTask
        from dragonfly_executor.backends.dask.scheduler import DaskError

        try:
            self._ask(client, client.connection.client(), Deadline(request.timeout, request.given_up))
        except DaskError as error:
            raise BootError(str(error), "create", output=str(error)) from error
        wanted = self._wanted(request.requires)
        task = RunnerTask(self._task_key(request), self._order(request), wanted, request.ending)
        if self._scale is not None:
            self._scale.more()
        return DaskNode(
            task,
            client,
            request,
            shares_disk=self._shares_disk,
            scaling="" if self._scale is None else self._scale.describe(),
            on_stopped=lambda: self._stopped(client),
        )

    def _queue(self, node: DaskNode, client: RunnerTasks) -> None:
        client.queue(node.task)

    def _stopped(self, tasks: RunnerTasks) -> None:
        try:
            if self._scale is not None:
                self._scale.less(tasks.worker_names())
        finally:
            self._shared.release(tasks)

    def _connect(self) -> RunnerTasks:
        from dragonfly_executor.backends.dask.runner_tasks import RunnerTasks

        return RunnerTasks(self._address, self._security)


def _check_installed() -> None:
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise ImportError("DaskBackend needs Dask: pip install 'dragonfly-executor[dask]'") from error


def _address_of(cluster: Any) -> tuple[str, Any]:
    """Return the scheduler's address, and the security object for it."""
    if isinstance(cluster, str):
        address, security = cluster, None
    elif hasattr(cluster, "scheduler_address"):
        address, security = cluster.scheduler_address, cluster.security
    elif hasattr(cluster, "scheduler"):
        address, security = getattr(cluster.scheduler, "address", ""), cluster.security
    else:
        raise TypeError(f"DaskBackend takes an address, a Client or a cluster of Dask, not {cluster!r}")
    if not address or address == "<Not Connected>":
        raise ValueError(f"{cluster!r} is not connected to a Dask scheduler")
    return address if "://" in address else f"tcp://{address}", security


def _amounts(resources: Mapping[str, float]) -> dict[str, float]:
    for name, amount in resources.items():
        if not isinstance(amount, (int, float)) or amount <= 0:
            raise ValueError(f"the amount of the Dask resource {name!r} must be a positive number, not {amount!r}")
    return dict(resources)


def _own_address(scheduler: str) -> str:
    """Return the address of this machine from which the scheduler is reached. Nothing is sent."""
    host = urlsplit(scheduler).hostname or ""
    return "127.0.0.1" if scheduler.startswith("inproc:") or not host else address_toward(host)
