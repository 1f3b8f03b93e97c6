"""Finds calls that wait for child calls which no runner can take."""

from __future__ import annotations

from dragonfly_executor.core.actions import Warn
from dragonfly_executor.core.runner import UP
from dragonfly_executor.core.state import PoolState


def warn_of_stuck_calls(pool: PoolState) -> None:
    """Warn, once, if no waiting call can begin before a call ends that waits for it.

    That is so if each call on a runner waits for child calls, and `max` has no room for another runner. The calls do
    not fail: a call may give up such a wait, and then its child calls begin when it has ended. The core cannot know.
    """
    table, total = pool.runner_table, pool.call_table.total
    if len(table.runners) < pool.max or total.delayed:
        return
    for runner in table.runners.values():
        if runner.state is not UP or len(runner.in_flight) != len(runner.lent):
            return
    pool.has_told_of_stuck_calls = True
    count = total.queued
    text = f"{count} calls wait" if count > 1 else "a call waits"
    pool.actions.append(
        Warn(
            f"{text} for a runner, and every call on the runners that are up waits for child calls: max={pool.max} has "
            "no room for another runner. Raise max=, give child calls a timeout=, or have them require what those "
            "runners have"
        )
    )
