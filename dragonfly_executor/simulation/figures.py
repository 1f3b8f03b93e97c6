"""The figures of a simulated run."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple


class Figures(NamedTuple):
    """The figures of a simulated run.

    Attributes:
        p50, p95, p99, longest: percentiles of the seconds that calls waited, and the longest wait.
        machine_seconds: seconds that runners existed, from the request for their node to its end.
        billed_seconds: the same, with each runner's time rounded up to a multiple of the billing interval.
        boots: number of boots.
        unused_boots: number of boots whose runner ran no call.
        most_runners: the largest number of runners at once.
        seconds: from the first call's arrival to the last call's end.
    """

    p50: float
    p95: float
    p99: float
    longest: float
    machine_seconds: float
    billed_seconds: float
    boots: int
    unused_boots: int
    most_runners: int
    seconds: float


class RunnerTime(NamedTuple):
    """The life of one runner: when its node was requested and released, and how many calls it ran."""

    began: float
    ended: float
    calls: int


def figures_of(waits: Sequence[float], lives: Sequence[RunnerTime], seconds: float, billing: float = 0.0) -> Figures:
    """Return the figures of a run.

    Args:
        waits: seconds that each call waited.
        lives: the lives of all runners.
        seconds: from the first call's arrival to the last call's end.
        billing: seconds to a multiple of which each runner's time is rounded up; 0 for none.
    """
    waited = sorted(waits)
    times = [life.ended - life.began for life in lives]
    return Figures(
        p50=percentile(waited, 50),
        p95=percentile(waited, 95),
        p99=percentile(waited, 99),
        longest=waited[-1],
        machine_seconds=sum(times),
        billed_seconds=sum(ceil(time / billing) * billing for time in times) if billing else sum(times),
        boots=len(lives),
        unused_boots=sum(not life.calls for life in lives),
        most_runners=_most(lives),
        seconds=seconds,
    )


def percentile(ordered: Sequence[float], percent: int) -> float:
    """Return the percentile of ordered values: the smallest that at least this share of them does not exceed."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def _most(lives: Sequence[RunnerTime]) -> int:
    changes = sorted([(life.ended, -1) for life in lives] + [(life.began, 1) for life in lives])
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most
