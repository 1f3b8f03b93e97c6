"""The counters of a pool."""

from __future__ import annotations


class Counters:
    """Counts of events since the pool began. They have no other effect.

    `PoolStats` has a field of the same name for each counter, with its meaning. `stats_snapshot.summarize` carries all
    of them over.
    """

    def __init__(self) -> None:
        self.calls_done = 0
        self.calls_failed = 0
        self.calls_cancelled = 0
        self.calls_timed_out = 0
        self.calls_retried = 0
        self.stale = 0
        self.boots_attempted = 0
        self.boots_failed = 0
