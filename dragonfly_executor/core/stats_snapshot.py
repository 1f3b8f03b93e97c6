"""The computation of a pool's statistics from its state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dragonfly_executor.core.runners import Row
from dragonfly_executor.core.state import PoolState
from dragonfly_executor.core.stats import Later, PoolStats, RunnerStats


def summarize(pool: PoolState, now: float) -> PoolStats:
    """Return a snapshot of the pool at `now` (monotonic seconds).

    The function walks neither calls nor runners: the records of runners are made on first access.
    """
    ledger, roster, tally = pool.ledger, pool.roster, pool.tally
    holds = pool.back_off.holds(now)
    rows, meter = list(roster.rows.values()), pool.meter.snapshot()
    return PoolStats(
        min=pool.min,
        max=pool.max,
        runners_up=roster.up,
        runners_booting=len(roster.booting),
        runners_stopping=len(roster.runners) - roster.up - len(roster.booting),
        runners_idle=len(roster.idle) + len(roster.idle_check_pending),
        runners=Later(lambda: tuple(_runner(row, meter, now) for row in rows)),  # type: ignore[arg-type]
        slots_busy=roster.busy,
        slots_free=roster.slots - roster.busy,
        calls_queued=ledger.waiting - ledger.delayed,
        calls_delayed=ledger.delayed,
        calls_sent=len(ledger.calls) - ledger.waiting,
        calls_running=ledger.started,
        calls_done=tally.done,
        calls_failed=tally.failed,
        calls_cancelled=tally.cancelled,
        calls_timed_out=tally.timed_out,
        calls_retried=tally.retried,
        stale=tally.stale,
        boots_attempted=tally.boots_attempted,
        boots_failed=tally.boots_failed,
        last_boot_error=None if pool.last_boot_error is None else str(pool.last_boot_error),
        back_off_until=pool.back_off.until if holds else None,
        limits_that_bind=tuple(_binding(pool, holds)),
        machine_seconds=pool.meter.seconds(now),
        cost=pool.meter.cost(now),
        prices_as_of=pool.meter.caps.as_of,
    )


def _runner(row: Row, meter: Mapping[int, tuple[float, float | None]], now: float) -> RunnerStats:
    runner_id, state, slots, in_flight, done = row
    since, price = meter.get(runner_id, (now, 0.0))
    seconds = max(0.0, now - since)
    cost = None if price is None else price * seconds
    return RunnerStats(runner_id, state.value, slots, in_flight, done, seconds, cost)


def _binding(pool: PoolState, holds: bool) -> Iterator[str]:
    roster, workers = pool.roster, pool.limits.max_workers
    waits = pool.ledger.queued + roster.ahead > 0
    if waits and len(roster.runners) >= pool.max:
        yield "max"
    if waits and workers is not None and roster.slots + len(roster.booting) * pool.slots_hint >= workers:
        yield "max_workers"
    if waits and pool.boots.free <= 0:
        yield "max_concurrent_boots"
    if holds:
        yield "back-off"
    if pool.meter.exhausted:
        yield "budget"
    if pool.mode is not None:
        yield "shutdown"
    if pool.broken is not None:
        yield "broken"
