"""Calls that share slots, in the statistics and the status of their pool."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from dragonfly_executor.core.calls import SETTLED, STARTED
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.core.calls import Call
    from dragonfly_executor.core.machine import Machine
    from dragonfly_executor.core.stats import PoolStats
    from dragonfly_executor.engine.task_slots.task_pool import TaskPool

ADDED = (
    "calls_queued", "calls_delayed", "calls_sent", "calls_running", "calls_done", "calls_failed", "calls_cancelled",
    "calls_timed_out", "calls_retried",
)  # fmt: skip
"""The counts of calls."""


def with_task_calls(stats: PoolStats, machine: Machine, pools: Iterable[TaskPool]) -> PoolStats:
    """Return the statistics of a pool in which such calls count, and their slots do not. On the engine thread.

    Args:
        stats: the statistics without them.
        machine: the pool's core.
        pools: the calls that share slots.
    """
    counts = {name: getattr(stats, name) for name in ADDED}
    for call in machine.pool.call_table.calls.values():
        if call.is_hidden:
            counts["calls_sent" if call.runner is not None else "calls_queued"] -= 1
            counts["calls_running"] -= call.state is STARTED
    for pool in pools:
        counts["calls_done"] -= pool.ended.done
        counts["calls_cancelled"] -= pool.ended.cancelled
        counts["calls_failed"] -= pool.ended.failed
        own = pool.machine.stats(pool.loop.time())
        for name in ADDED:
            counts[name] += getattr(own, name)
    return replace(stats, **counts)


def running_task_calls(pools: Iterable[TaskPool]) -> list[tuple[Call, int | None]]:
    """Return such calls that are in slots, in the order of their submits, each with its runner."""
    calls = [
        (call, slot.runner_id)
        for pool in pools
        for slot in list(pool.slots.values())
        for call in slot.calls()
        if call.state is not SETTLED
    ]
    return sorted(calls, key=lambda each: each[0].id)
