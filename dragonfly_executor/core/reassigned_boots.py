"""Runners that have less than the calls for which they were booted require, and that other waiting calls can use.

A backend may get another node than the one that it asked for: a smaller type, or a node of another request.
"""

from __future__ import annotations

from dragonfly_executor.core.capacity import Capacity
from dragonfly_executor.core.losses import boot_failed
from dragonfly_executor.core.runner import RunnerState
from dragonfly_executor.core.state import PoolState


def use_of(pool: PoolState, capacity: Capacity) -> str | None:
    """Return the kind whose next call comes first among the waiting calls that fit on a runner; None if none fits."""
    found: list[str] = []
    if pool.starts_calls:
        for kind in pool.runner_table.groups:
            required = pool.runner_table.placements.by_kind[kind].requirements
            if required is not None and required.fit(capacity) and pool.call_table.queue_of(kind).queued:
                found.append(kind)
    return min(found, key=lambda kind: pool.call_table.queue_of(kind).turn()) if found else None


def reassign(pool: PoolState, runner_id: int, kind: str, error: Exception, *, now: float, next_boot: float) -> None:
    """Let a booting runner boot for another kind, and count its boot as failed for the kind that it was booted for.

    Args:
        pool: the state.
        runner_id: the runner. Nothing changes unless it boots.
        kind: the other kind. Nothing changes if the pool has it no more.
        error: says what the runner lacks.
        now: monotonic seconds.
        next_boot: monotonic seconds at which the next boot for the first kind may begin.
    """
    table = pool.runner_table
    runner = table.runners.get(runner_id)
    if runner is None or runner.state is not RunnerState.BOOTING or kind == runner.kind or kind not in table.groups:
        pool.counters.stale += 1
        return
    table.unqueue(runner)
    old, new = table.groups[runner.kind][runner.tier], table.groups[kind][runner.tier]
    del old.booting[runner_id], old.runners[runner_id]
    old.boot_times.ended(runner_id)
    runner.kind = kind
    # At the end of each table, as all of them have the order of the boots.
    table.booting.move_to_end(runner_id)
    table.runners[runner_id] = table.runners.pop(runner_id)
    table.rows[runner_id] = table.rows.pop(runner_id)
    new.booting[runner_id] = new.runners[runner_id] = runner
    boot_failed(pool, old, error, now, next_boot)
