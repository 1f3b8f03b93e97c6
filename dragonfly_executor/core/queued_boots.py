"""Boots that wait in a queue of the backend, such as that of a batch scheduler, and that no call needs any more.

A boot in a queue costs nothing until its node starts, so a short wait for the next call costs nothing either. Without
it, each of several calls that come one by one puts a boot into the queue and takes it out again.
"""

from __future__ import annotations

from dragonfly_executor.core.calls import DEFAULT_KIND
from dragonfly_executor.core.runner_endings import calls_to_replace
from dragonfly_executor.core.runner_group import RunnerGroup
from dragonfly_executor.core.scaling import boots_for
from dragonfly_executor.core.spares import ahead, is_used
from dragonfly_executor.core.state import PoolState


def abort_needless(pool: PoolState, now: float) -> None:
    """Abort the latest boots in a queue that no call has needed for `PoolLimits.queued_idle_after`.

    Boots that have started count first for the calls that wait. They are not aborted: their nodes exist.
    """
    for group in pool.runner_table.all_groups:
        count = needless(pool, group) if group.queued else 0
        if count <= 0:
            group.needless_since = None
            continue
        if group.needless_since is None:
            group.needless_since, group.needless = now, count
        # Calls may have needed some of these boots in between.
        group.needless = min(group.needless, count)
        if now >= group.needless_since + pool.limits.queued_idle_after:
            pool.abort_boots(group.queued, group.needless, "no call needs it any more")
            group.needless = needless(pool, group) if group.queued else 0
            group.needless_since = now if group.needless > 0 else None


def needless(pool: PoolState, group: RunnerGroup) -> int:
    """Return how many of a kind's boots in a queue neither calls, `min` nor `spare` need; not positive if none is."""
    # A call that waits for its retry needs a runner soon, and a new boot would wait at the end of the queue.
    calls = pool.waiting_for(group) + pool.call_table.queue_of(group.kind).delayed + calls_to_replace(pool, group)
    staying = group.up - len(group.yielding) - len(group.ending.runners)
    needed = max(boots_for(calls, pool.slots_hint(group)), pool.keep_of(group) - staying)
    count = min(len(group.queued), len(group.booting) - needed)
    if pool.limits.spare and group.kind == DEFAULT_KIND and is_used(pool):
        count = min(count, ahead(pool) - pool.limits.spare)
    return count


def needless_until(pool: PoolState) -> float | None:
    """Return when the next needless boot is aborted, in monotonic seconds; None = never."""
    first: float | None = None
    for group in pool.runner_table.all_groups:
        since = group.needless_since
        if since is not None and (first is None or since + pool.limits.queued_idle_after < first):
            first = since + pool.limits.queued_idle_after
    return first
