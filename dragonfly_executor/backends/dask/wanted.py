"""`Wanted`: what a worker must have to get a runner, by the names that Dask's workers declare."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dragonfly_executor.backends.dask.scheduler import Worker
from dragonfly_executor.core.capacity import UNKNOWN, Capacity, Requirements

GPU = "GPU"
"""The resource that stands for GPUs: ``dask worker --resources "GPU=2"``."""
NOTHING = Requirements()


class Wanted:
    """Conditions that a worker must meet to get a runner.

    Args:
        resources: amounts by name, which the task takes from the worker for as long as it runs.
        workers: addresses, names or hosts of the workers that may be used; None for all.
        annotations: of the task, for Dask.
        required: what the calls that wait for the runner require. GPUs are the resource "GPU", CPUs are the worker's
            threads, memory is its memory limit, and a label is any resource of that name.
        labels: labels that all workers have, whatever they declare.
    """

    def __init__(
        self,
        resources: Mapping[str, float],
        workers: Collection[str] | None,
        annotations: Mapping[str, Any],
        required: Requirements | None = None,
        labels: frozenset[str] = frozenset(),
    ) -> None:
        self.resources, self.workers, self.annotations = dict(resources), workers, dict(annotations)
        self.required = required or NOTHING
        self._labels = labels
        if self.required.gpus:
            self.resources[GPU] = max(self.required.gpus, self.resources.get(GPU, 0))

    def fits(self, worker: Worker) -> bool:
        """Return True if this worker may get a runner."""
        if self.workers is not None and not {worker.address, worker.name, worker.host} & set(self.workers):
            return False
        return all(worker.resources.get(name, 0) >= amount for name, amount in self.resources.items()) and (
            self.required.cpus <= worker.threads
            and self.required.memory <= (worker.memory or UNKNOWN)
            and self.required.labels <= labels_of(worker.resources) | self._labels
        )

    def surplus(self, worker: Worker) -> int:
        """Return how many resources a worker declares that this runner does not need and others may."""
        return len({name for name, amount in worker.resources.items() if amount} - {*self.resources})

    def capacity(self, worker: Worker) -> Capacity:
        """Return what a runner on this worker has: all of its threads and memory, and the GPUs that the task takes."""
        found = capacity_of(worker.threads, worker.memory or UNKNOWN, worker.resources, self._labels)
        return Capacity(found.cpus, int(self.resources.get(GPU, 0)), found.memory, found.labels)

    def __str__(self) -> str:
        parts = [f"{name}={amount:g}" for name, amount in self.resources.items()]
        parts += [f"{label} (a label)" for label in sorted(self.required.labels - self._labels)]
        if self.required.cpus:
            parts.append(f"{self.required.cpus:g} threads")
        if self.required.memory:
            parts.append(f"a memory limit of {self.required.memory / 2**30:.3g} GiB")
        if self.workers is not None:
            parts.append(f"one of the names {', '.join(map(str, self.workers))}")
        return ", ".join(parts)

    def standing(self, workers: Sequence[Worker], waiting: int) -> str:
        """Return how a runner stands that waits for a worker, for people to read.

        Args:
            workers: all workers of the cluster that take tasks.
            waiting: number of runners that wait.
        """
        count = f"{waiting} runner{'s wait' if waiting > 1 else ' waits'}"
        if not workers:
            return f"the Dask cluster has no worker; {count}"
        fitting = sum(map(self.fits, workers))
        if fitting:
            return f"each of the {fitting} Dask workers that fit has a runner; {count}"
        return f"none of the {len(workers)} Dask workers has {self} ({_declared(workers)}); {count}"

    def census(self, workers: Sequence[Worker]) -> str:
        """Return which workers there are, and how many of them fit, for people to read."""
        if not workers:
            return "the Dask cluster has no worker now"
        threads = sum(worker.threads for worker in workers)
        of = f"{len(workers)} Dask workers with {threads} threads in all"
        return f"{sum(map(self.fits, workers))} of {of} may get a runner; {_declared(workers)}"


def _declared(workers: Sequence[Worker]) -> str:
    names = sorted({name for worker in workers for name in worker.resources})
    return f"they declare {', '.join(names)}" if names else "they declare no resources"


def labels_of(resources: Mapping[str, float]) -> frozenset[str]:
    """Return the labels of a worker that declares these resources: their names, apart from GPUs."""
    return frozenset(name for name, amount in resources.items() if amount and name != GPU)


def capacity_of(threads: int, memory: int, resources: Mapping[str, float], labels: frozenset[str]) -> Capacity:
    """Return what a worker has.

    Args:
        threads: number of its threads.
        memory: bytes of its memory limit, or `UNKNOWN`.
        resources: what it declares, by name.
        labels: its labels beyond that.
    """
    return Capacity(threads, int(resources.get(GPU, 0)), memory, labels_of(resources) | labels)
