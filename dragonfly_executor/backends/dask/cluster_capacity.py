"""The capacity of the workers of a Dask cluster object, if the object's attributes state it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dragonfly_executor.backends.dask.wanted import capacity_of
from dragonfly_executor.core.capacity import UNKNOWN, Capacity

DASK_S_OWN = "distributed"
"""The package of the classes of workers whose options are known."""


def capacities_of(cluster: Any, labels: frozenset[str]) -> list[Capacity]:
    """Return the capacities of a cluster's workers, and of workers that it can start; empty if one is unknown.

    Args:
        cluster: a cluster object. Those on `distributed.SpecCluster` hold the options of their workers.
        labels: labels that all workers have.
    """
    try:
        specs = [cluster.new_spec, *cluster.worker_spec.values()]
        found = [_capacity(spec, labels) for spec in specs if spec]
    except (AttributeError, KeyError, TypeError, ValueError):
        return []  # a cluster manager with options of its own
    return [capacity for number, capacity in enumerate(found) if capacity not in found[:number]]


def _capacity(spec: Mapping[str, Any], labels: frozenset[str]) -> Capacity:
    """Return what a worker of this specification has.

    Raises:
        KeyError, TypeError, ValueError: it is not one of Dask's own workers, or it does not say its threads.
    """
    if spec["cls"].__module__.partition(".")[0] != DASK_S_OWN:
        raise ValueError(f"the options of {spec['cls']} are not known")
    options = spec["options"]
    memory = options.get("memory_limit")
    # A worker reads other forms of a limit, such as "auto", by itself.
    limit = memory if isinstance(memory, int) and memory > 0 else UNKNOWN
    return capacity_of(int(options["nthreads"]), limit, options.get("resources") or {}, labels)
