"""The state of a pool as one JSON object."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from heapq import nsmallest
from itertools import islice
from time import time

from dragonfly_executor.core.call_times import Quantiles
from dragonfly_executor.core.calls import QUEUED, SETTLED, STARTED, Call
from dragonfly_executor.engine.tier_settings import names_of
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.terminal_text import escape_controls

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.core.machine import Machine
    from dragonfly_executor.core.stats import PoolStats, RunnerStats
    from dragonfly_executor.engine.context import EngineContext
    from dragonfly_executor.engine.runner_connection import RunnerLink

VERSION = 1
"""The version of the object. It rises when a key changes its meaning or goes."""
MOST_CALLS = 200
"""Maximum number of calls in a report: the longest-running first, then calls that wait on runners."""
MOST_RUNNERS = 200
MOST_VISITED = 5000
"""Maximum number of calls that a report reads, so that it costs milliseconds at most."""
PLAIN = (
    "min", "max", "runners_up", "runners_booting", "runners_stopping", "runners_idle", "boots_queued", "slots_busy",
    "slots_free", "calls_queued", "calls_delayed", "calls_sent", "calls_running", "calls_done", "calls_failed",
    "calls_cancelled", "calls_timed_out", "calls_retried", "boots_attempted", "boots_failed", "machine_seconds",
    "cost", "prices_as_of",
)  # fmt: skip
"""The statistics that a report has as they are."""


def pool_report(
    engine: EngineContext,
    machine: Machine,
    now: float,
    links: Iterable[RunnerLink] = (),
    boot_errors: Iterable[tuple[float, int, str]] = (),
) -> dict[str, Any]:
    """Return the state of a pool. Texts have no control characters.

    Args:
        engine, machine: the pool's.
        now: monotonic seconds.
        links: the links of its runners.
        boot_errors: Unix time, runner and text of its last boot errors.
    """
    stats = machine.stats(now)
    hosts = {link.id: (link.node.host, link.pid) for link in links}
    calls = nsmallest(MOST_CALLS, islice(_in_flight(machine), MOST_VISITED), key=_begun_first)
    reports = [call_report(call, now) for call in calls]
    if engine.task_pools:
        from dragonfly_executor.engine.task_slots.task_stats import running_task_calls, with_task_calls

        stats = with_task_calls(stats, machine, engine.task_pools)
        shared = running_task_calls(engine.task_pools)[: MOST_CALLS - len(reports)]
        reports += [{**call_report(call, now), "runner": runner, "slot": None} for call, runner in shared]
    return {
        "version": VERSION,
        "pid": os.getpid(),
        "program": _plain(os.path.basename(sys.argv[0]) if sys.argv and sys.argv[0] else "python"),  # noqa: PTH119
        "pool": _plain(engine.options.name),
        "backend": names_of(engine.tiers),
        "time": time(),
        "stats": {name: getattr(stats, name) for name in PLAIN},
        "why": _plain(stats.explain),
        "held_by": list(stats.limits_that_bind),
        "tiers": [{"name": tier.name, "up": tier.runners_up, "max": tier.max} for tier in stats.tiers],
        "times": _times(machine),
        "oldest_wait": _oldest_wait(machine, now),
        "captures": engine.options.output == "capture",
        "runners": [_runner(each, stats, hosts.get(each.id, ("", None))) for each in stats.runners[:MOST_RUNNERS]],
        "runner_states": dict(Counter(each.state for each in stats.runners)),
        "calls": reports,
        "boot_errors": [{"time": when, "runner": runner, "text": _plain(text)} for when, runner, text in boot_errors],
    }


def _in_flight(machine: Machine) -> Iterator[Call]:
    for runner in machine.pool.runner_table.runners.values():
        # A call that was cancelled stays there until it has left its slot.
        yield from (call for call in runner.in_flight.values() if call.state is not SETTLED and not call.is_hidden)


def _begun_first(call: Call) -> tuple[bool, float]:
    return (False, call.began_at) if call.state is STARTED else (True, call.submitted_at)


def call_report(call: Call, now: float) -> dict[str, Any]:
    """Return a call that is on a runner, or waits."""
    is_begun = call.state is STARTED
    return {
        "id": call.id,
        "function": _plain(call.name),
        "attempt": call.attempt,
        "state": "running" if is_begun else "sent",
        "runner": call.runner,
        "slot": call.slot if is_begun else None,
        "running_for": now - call.began_at if is_begun else None,
        "age": now - call.submitted_at,
    }


def _runner(runner: RunnerStats, stats: PoolStats, where: tuple[str, int | None]) -> dict[str, Any]:
    host, pid = where
    return {
        "id": runner.id,
        "state": runner.state,
        "host": _plain(host or ""),
        "pid": pid,
        "backend": stats.tiers[runner.tier].name if stats.tiers else None,
        "age": runner.machine_seconds,
        "slots": runner.slots,
        "in_flight": runner.in_flight,
        "calls_done": runner.calls_done,
        "cost": runner.cost,
    }


def _times(machine: Machine) -> dict[str, Any]:
    """Return the quantiles of the latest calls; None if no call has ended."""
    times = machine.pool.call_times
    found: dict[str, Any] = {"calls": len(times.runs)}
    kinds: Sequence[tuple[str, Iterable[float]]] = (("wait", times.waits), ("run", times.runs))
    for name, values in kinds:
        quantiles = Quantiles.of(list(values))
        found[f"{name}_p50"] = None if quantiles is None else quantiles.p50
        found[f"{name}_p95"] = None if quantiles is None else quantiles.p95
    return found


def _oldest_wait(machine: Machine, now: float) -> float | None:
    """Return for how long the oldest of the waiting calls waits. With priorities, it may be among those not seen."""
    calls = islice(machine.pool.call_table.calls.values(), MOST_VISITED)
    return next((now - call.submitted_at for call in calls if call.state is QUEUED), None)


def _plain(text: str) -> str:
    return escape_controls(text)
