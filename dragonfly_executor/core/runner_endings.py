"""Runners whose platform ends them at a known time, such as a batch job at its time limit.

1. A call that may run for longer than its runner has left is not sent there, unless no new runner has the time either.
   A call without `run_timeout` is sent until the drain begins.
2. A boot time before the drain begins, the runner's slots are not counted on any more: a replacement boots if the calls
   need it that came there within the last boot time, or that wait, or `min` does. It takes no calls from the runner.
3. The drain begins `PoolLimits.drain_before` before the end, or at half of the runner's lifetime if that is later. The
   runner takes no more calls, gives back those that it has not started, and stops when the others have ended.
4. At the end, its calls fail with an error that says who has ended it, or are tried again if they may be.
"""

from __future__ import annotations

from heapq import heappop, heappush

from dragonfly_executor.core import call_errors
from dragonfly_executor.core.actions import Drain, Stop
from dragonfly_executor.core.calls import Call
from dragonfly_executor.core.losses import lose
from dragonfly_executor.core.runner import Runner, RunnerState
from dragonfly_executor.core.runner_group import RunnerGroup
from dragonfly_executor.core.state import PoolState


def note_end(pool: PoolState, runner: Runner, ends_at: float, ended_by: str, now: float) -> None:
    """Note when a runner ends, and who ends it."""
    runner.ended_by = ended_by
    if pool.runner_table.placements.held is runner:
        pool.runner_table.placements.release()
    if runner.state is RunnerState.UP:
        if runner.ends_at is None or not runner.lifetime:
            runner.lifetime = ends_at - now
        runner.drains_at = ends_at - min(pool.limits.drain_before, runner.lifetime / 2)
        group = pool.runner_table.groups[runner.kind][runner.tier]
        if runner.id in group.ending.runners:
            pool.runner_table.lasts(runner)
        # A runner that takes one call alone is replaced by the next call's.
        boot = 0.0 if pool.limits.single_use else group.tier.boot_times.seconds or 0.0
        runner.replace_at = max(now, runner.drains_at - boot)
        heappush(pool.runner_table.endings, (runner.replace_at, runner.id))
    runner.ends_at = ends_at
    note_left(pool, runner)


def note_left(pool: PoolState, runner: Runner) -> None:
    """Note that a runner takes no more calls: if its end is known, that comes next."""
    if runner.state is RunnerState.LEAVING and runner.ends_at is not None:
        heappush(pool.runner_table.endings, (runner.ends_at, runner.id))


def next_time(pool: PoolState, runner: Runner | None) -> float | None:
    """Return when a runner is to be replaced, begins to drain, or ends, in monotonic seconds; None = never."""
    if runner is None or runner.ends_at is None:
        return None
    if runner.state is RunnerState.UP:
        is_ending = runner.id in pool.runner_table.groups[runner.kind][runner.tier].ending.runners
        return runner.drains_at if is_ending else runner.replace_at
    return runner.ends_at if runner.state is RunnerState.LEAVING else None


def next_ending(pool: PoolState) -> float | None:
    """Return when the next runner is to be replaced, begins to drain, or ends, in monotonic seconds; None = never."""
    endings, runners = pool.runner_table.endings, pool.runner_table.runners
    while endings and next_time(pool, runners.get(endings[0][1])) != endings[0][0]:
        heappop(endings)
    return endings[0][0] if endings else None


def end_due(pool: PoolState, now: float) -> None:
    """Stop counting runners that end soon, drain the runners whose time has come, and stop the runners that end now."""
    runners = pool.runner_table
    while (when := next_ending(pool)) is not None and when <= now:
        runner = runners.runners[heappop(runners.endings)[1]]
        if runner.state is RunnerState.UP:
            if now < runner.drains_at:
                boot = runners.groups[runner.kind][runner.tier].tier.boot_times.seconds or 0.0
                runners.ends_soon(runner, in_use=runner.sent_at >= now - boot)
                heappush(runners.endings, (runner.drains_at, runner.id))
            else:
                begin_drain(pool, runner, now)
        else:
            lose(pool, runner, call_errors.ended(runner), now)
            pool.actions.append(Stop(runner.id, 0.0, "its time is over"))


def begin_drain(pool: PoolState, runner: Runner, now: float) -> None:
    """Have a runner that is up take no more calls, and stop once its calls have ended."""
    if not runner.in_flight:
        pool.stop(runner, "its time is nearly over")
        return
    pool.runner_table.leave(runner)
    note_left(pool, runner)
    pool.actions.append(Drain(runner.id, max(0.0, (runner.ends_at or now) - now)))


def calls_to_replace(pool: PoolState, group: RunnerGroup) -> int:
    """Return for how many calls of a group a boot begins now, because their runners drain within a boot time."""
    # In a shutdown, no call comes for which a slot must be free.
    return group.ending.calls(group.load, group.slots) if group.ending.runners and pool.mode is None else 0


def fits(runner: Runner, call: Call, now: float) -> bool:
    """Return whether the call's `run_timeout` ends before the runner does, or no new runner would have the time."""
    seconds = call.limits.run_timeout
    if seconds is None or runner.ends_at is None:
        return True
    return seconds <= runner.ends_at - now or seconds > runner.lifetime
