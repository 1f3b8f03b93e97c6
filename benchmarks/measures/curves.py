"""Growth: figures over the number of slots, the size of a payload, and the number of calls.

A curve ends before a point that is likely to take longer than the limit, so a run is bounded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from statistics import median

from benchmarks.adapters import Adapter
from benchmarks.measures.alone import rests
from benchmarks.measures.calls import distinct_bytes, warm_up
from benchmarks.measures.effort import Effort, Figures, Setting
from benchmarks.payloads import nothing
from benchmarks.subjects import ADAPTERS

SLOTS = (1, 2, 5, 10, 20, 50, 100)
SIZES = tuple(8**power for power in range(11))
"""Bytes: from 1 to 1 GiB."""
CALLS = (100, 1_000, 10_000, 100_000, 1_000_000)
SMALLEST_DISTINCT = 64
"""Bytes from which each payload differs from the others."""
POINT_LIMIT = 150.0
"""Seconds that a point may take."""


def slots(setting: Setting) -> Figures:
    """Measure the seconds of ten calls of 10 ms for each slot, from cold. The limit is 0.1 s for each number."""
    kind = ADAPTERS[setting.subject]
    counts = SLOTS if setting.effort.share == 1 else SLOTS[:2]
    return {"curve_slots": [[count, rests(kind, count, 10 * count)[0]] for count in counts]}


def sizes(setting: Setting) -> Figures:
    """Measure the seconds of an echo, one at a time, over the size of the payload."""
    pool = ADAPTERS[setting.subject](setting.workers)
    warm_up(pool, setting.effort)
    points = [[size, echo_time(pool, size, setting.effort)] for size in sizes_within(SIZES, setting.effort)]
    pool.close()
    return {"curve_sizes": points}


def sizes_within(every: Iterable[int], effort: Effort) -> Iterator[int]:
    """Yield the sizes that this effort has time for."""
    return (size for size in every if effort.share == 1 or size <= 4096)


def echo_time(pool: Adapter, size: int, effort: Effort) -> float:
    """Return the median seconds of some echoes, or the least of two."""
    times: list[float] = []
    while sum(times) < effort.seconds / 2 or len(times) < 2:
        value = distinct_bytes(size, len(times)) if size >= SMALLEST_DISTINCT else bytes(size)
        start = time.perf_counter()
        result = pool.submit(nothing, value)()
        times.append(time.perf_counter() - start)
        assert len(result) == size
        del result
    return median(times) if len(times) > 2 else min(times)


def calls(setting: Setting) -> Figures:
    """Measure no-op calls per second over their number: all are submitted, then all results taken."""
    pool = ADAPTERS[setting.subject](setting.workers)
    warm_up(pool, setting.effort)
    points: list[list[float]] = []
    for count in CALLS if setting.effort.share == 1 else CALLS[:2]:
        if points and count / points[-1][1] > POINT_LIMIT:
            break
        start = time.perf_counter()
        for result in [pool.submit(nothing) for _ in range(count)]:
            result()
        points.append([count, count / (time.perf_counter() - start)])
    pool.close()
    return {"curve_calls": points}


MEASURES: dict[str, Callable[[Setting], Figures]] = {
    "curve_slots": slots,
    "curve_sizes": sizes,
    "curve_calls": calls,
}
