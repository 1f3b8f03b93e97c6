"""Calls that leave their runner: steps that transitions share."""

from __future__ import annotations

from dragonfly_executor.core.calls import Call, CallState
from dragonfly_executor.core.runner import Runner, RunnerState
from dragonfly_executor.core.state import PoolState


def find_runner(pool: PoolState, runner_id: int) -> Runner | None:
    """Return the runner that a message is about; None, and the message counts as stale, if there is none."""
    runner = pool.runner_table.runners.get(runner_id)
    if runner is None:
        pool.counters.stale += 1
    return runner


def take_off(pool: PoolState, runner: Runner, call_id: int, attempt: int) -> Call | None:
    """Remove a call from a runner. The caller updates the runner's counts.

    Returns:
        None if the call is not there, or was already settled.
    """
    call = runner.in_flight.get(call_id)
    if call is None or call.attempt != attempt:
        pool.counters.stale += 1
        return None
    pool.runner_table.take_off(runner, call)
    return None if call.state is CallState.SETTLED else call


def gone_from(pool: PoolState, runner_id: int, call_id: int, attempt: int, now: float) -> Call | None:
    """Remove a call that has left its slot from a runner, and update the runner's counts.

    Returns:
        None if the call or the runner is not there, or the call was already settled.
    """
    runner = find_runner(pool, runner_id)
    if runner is None:
        return None
    before = len(runner.in_flight)
    call = take_off(pool, runner, call_id, attempt)
    note_departures(pool, runner, before, now)
    return call


def note_departures(pool: PoolState, runner: Runner, before: int, now: float) -> None:
    """Update a runner that had `before` calls, if calls have left it."""
    if len(runner.in_flight) == before:
        return
    if runner.state is RunnerState.LEAVING:
        pool.runner_table.note(runner)
        if not runner.in_flight:
            pool.stop(runner, "leaving")
        return
    pool.runner_table.left(runner, before, now)
    if pool.limits.single_use:
        pool.stop(runner, "used")
