"""Computes the capacity of a runner: what its node states, otherwise what its agent has found."""

from __future__ import annotations

from dragonfly_executor.core.capacity import Capacity
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragonfly_executor.backends.base import Backend
    from dragonfly_executor.engine.runner_connection import RunnerLink


def capacity_of(runner: RunnerLink, backend: Backend, warn: Callable[[str], object]) -> Capacity | None:
    """Return what a runner has, with the labels of its node and of its backend; None if that is unknown.

    Args:
        runner: a runner that has said HELLO.
        backend: the backend that booted it.
        warn: logs a warning about a node whose `capacity` is of another type.
    """
    labels = frozenset(runner.node.labels) | frozenset(backend.labels)
    stated: object = runner.node.capacity
    if isinstance(stated, Capacity):
        return Capacity(stated.cpus, stated.gpus, stated.memory, stated.labels | labels)
    if stated is not None:
        warn(
            f"the capacity of {runner.name} is a {type(stated).__name__}, not a Capacity; the agent's own count is used"
        )
    return None if runner.reported is None else Capacity(*runner.reported, labels)
