"""`ClusterScale`: scales a Dask cluster object, so that it has a worker for each node of a pool."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection
from inspect import isawaitable
from typing import Any

logger = logging.getLogger("dragonfly_executor")


class ClusterScale:
    """The number of workers of a cluster object, as the nodes of a pool need it. Any thread.

    The workers that the cluster had before are never ended, and count. A cluster that scales itself (``adapt``) only
    has its minimum raised, within its maximum: its own rule counts seconds of work, and a runner's task has no length.

    Args:
        cluster: a `distributed.deploy.Cluster`.
    """

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._lock = threading.Lock()
        self._wanted = 0
        self._first: frozenset[str] | None = None
        self._adaptive: Any = None
        """The cluster's adaptive scaling whose minimum was raised, and in `_own_minimum` what it was before."""
        self._own_minimum = 0

    def more(self) -> None:
        """Count one more node, and have a worker started for it if there are too few."""
        with self._lock:
            if self._first is None:
                self._first = frozenset(map(str, self._cluster.plan or self._cluster.observed))
            self._wanted += 1
            if self._adapt() or len(self._cluster.plan) >= self._wanted:
                return
            self._start(lambda: self._cluster.scale(self._wanted))

    def less(self, used: Collection[str]) -> None:
        """Count one node less, and have workers that no node uses ended.

        Args:
            used: the names of the workers that have a runner.
        """
        with self._lock:
            self._wanted -= 1
            if self._adapt():
                return
            first = self._first or frozenset()
            surplus = len(self._cluster.plan) - max(len(first), self._wanted)
            if surplus <= 0:
                return
            if not hasattr(self._cluster, "worker_spec"):
                # Which workers this cluster ends is its own choice, and may be those with runners.
                if not self._wanted:
                    self._start(lambda: self._cluster.scale(len(first)))
                return
            names = self._unused(surplus, {*used, *first})
            if names:
                self._start(lambda: self._cluster.scale_down(names))

    def _unused(self, count: int, kept: Collection[str]) -> list[Any]:
        """Return the names of the workers to end, `count` of them at most. Those that are not up yet come first.

        A cluster of jobs has several workers in one job. They have one name here, and end together.
        """
        observed = {str(name) for name in self._cluster.observed}
        jobs = []
        for name, spec in self._cluster.worker_spec.items():
            members = [f"{name}{suffix}" for suffix in spec.get("group", ("",))]
            if not set(members) & set(kept):
                jobs.append((sum(member in observed for member in members), len(members), name))
        names = []
        for _, size, name in sorted(jobs, key=lambda job: job[0]):
            if size <= count:
                count -= size
                names.append(name)
        return names

    def describe(self) -> str:
        """Return how the cluster is scaled, for people to read."""
        adaptive = getattr(self._cluster, "_adaptive", None)
        if adaptive is None:
            return f"the cluster is scaled to {self._wanted} workers"
        own = self._own_minimum if adaptive is self._adaptive else adaptive.minimum
        return f"the cluster scales itself, from {own} to {adaptive.maximum:g} workers"

    def _adapt(self) -> bool:
        """Have a cluster that scales itself keep a worker for each node. Return False if it does not scale itself."""
        adaptive = getattr(self._cluster, "_adaptive", None)
        if adaptive is None:
            return False
        if adaptive is not self._adaptive:
            self._adaptive, self._own_minimum = adaptive, adaptive.minimum
        adaptive.minimum = max(self._own_minimum, min(self._wanted, adaptive.maximum))
        return True

    def _start(self, action: Callable[[], Any]) -> None:
        """Start an action of the cluster on the cluster's own loop, as Dask's adaptive scaling does. Never raises."""
        work = self._run(action)
        try:
            asyncio.run_coroutine_threadsafe(work, self._cluster.loop.asyncio_loop)
        except RuntimeError as error:  # the loop of a closed cluster is closed
            work.close()
            self._warn(error)

    async def _run(self, action: Callable[[], Any]) -> None:
        """Run an action, which may return an awaitable. If it fails, log a warning."""
        try:
            result = action()
            if isawaitable(result):
                await result
        except Exception as error:  # of any cluster manager
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        logger.warning(
            "the Dask cluster %s did not scale (%s: %s): boots may wait for workers, or workers may stay",
            self._cluster.name,
            type(error).__name__,
            error,
        )
