"""The limits of idle runners: when a runner without calls stops."""

from __future__ import annotations

from dragonfly_executor.core.actions import CheckIdle
from dragonfly_executor.core.calls import DEFAULT_KIND
from dragonfly_executor.core.runner import Runner
from dragonfly_executor.core.runner_group import RunnerGroup
from dragonfly_executor.core.spares import ahead, is_used
from dragonfly_executor.core.state import PoolState


def idle_until(pool: PoolState, runner: Runner, group: RunnerGroup) -> float | None:
    """Return when an idle runner that is not being asked reaches its idle limit, in monotonic seconds.

    Args:
        pool: the state.
        runner: the runner.
        group: the runners of its kind.

    Returns:
        None if the runner is not stopped for being idle in the current state.
    """
    if group.load > group.slots - runner.slots:
        # Calls wait on other runners for a slot. If they come back, they need the slots of this runner.
        return None
    if pool.call_table.total.queued and is_last_for_waiting(pool, runner):
        # Its calls wait for their turn within `max_workers`.
        return None
    since = runner.idle_since
    if pool.limits.spare and group.kind == DEFAULT_KIND and pool.mode is None:
        if not is_used(pool):
            since = max(since, pool.used_at)
        elif ahead(pool) <= pool.limits.spare:
            return None
    limits = group.tier.limits
    within_min = group.kind == DEFAULT_KIND and up_to(pool, runner, group, asked=False) <= pool.floor
    if group.thrifty is not None and limits.learns_idle and not within_min:
        return since + group.thrifty.idle_after(group.up)
    after = pool.limits.min_idle_after if within_min else limits.idle_after
    return None if after is None else since + after


def up_to(pool: PoolState, runner: Runner, group: RunnerGroup, *, asked: bool) -> int:
    """Return how many runners of a kind are up on this tier and on those before: the runners of `min` come first.

    Runners that drain soon are no part of `min`, because they are replaced. But each of them stays while it is needed.

    Args:
        pool: the state.
        runner: the runner that may be one of `min`.
        group: the runners of this kind and tier.
        asked: count also the runners that were asked whether they may go.
    """
    up, is_ending = 0, runner.id in group.ending.runners
    for each in pool.runner_table.groups[group.kind][: group.tier.index + 1]:
        up += each.up if is_ending else each.up - len(each.ending.runners)
        if not asked:
            up -= len(each.idle_check_pending)
    return up


def is_last_for_waiting(pool: PoolState, runner: Runner) -> bool:
    """Return whether calls wait that fit on this runner, and on no other that stays or boots for them."""
    for placement in pool.runner_table.placements.of(runner):
        if pool.call_table.queue_of(placement.kind).queued:
            booting = sum([len(group.booting) for group in pool.runner_table.groups[placement.kind]])
            if len(placement.members) - placement.yielding + booting == 1:
                return True
    return False


def stop_idle(pool: PoolState, runner: Runner) -> None:
    """Stop a runner that has reached its idle limit."""
    group = pool.runner_table.groups[runner.kind][runner.tier]
    if group.thrifty is not None:
        group.thrifty.idle_times.stopped(runner.idle_since, group.up)
    if runner.kind == DEFAULT_KIND and up_to(pool, runner, group, asked=True) <= pool.floor:
        pool.idled_below_min = min(pool.min, pool.idled_below_min + 1)
    pool.stop(runner, "idle")


def stop_idle_runners(pool: PoolState, now: float) -> None:
    """Stop the runners that have reached their idle limit, or ask them first whether they may go."""
    for group in pool.runner_table.all_groups:
        while group.idle:
            runner = next(iter(group.idle.values()))
            until = idle_until(pool, runner, group)
            if until is None or until > now:
                break
            if pool.limits.idle_check:
                pool.runner_table.ask(runner)
                pool.actions.append(CheckIdle(runner.id))
            else:
                stop_idle(pool, runner)


def idle_deadline(pool: PoolState) -> float | None:
    """Return when the next idle runner reaches its idle limit, in monotonic seconds; None = never."""
    first: float | None = None
    for group in pool.runner_table.all_groups:
        # The runner that has been idle longest is first. If waiting calls keep it, those behind it stay as well.
        for runner in group.idle.values():
            until = idle_until(pool, runner, group)
            if until is not None and (first is None or until < first):
                first = until
            break
    return first
