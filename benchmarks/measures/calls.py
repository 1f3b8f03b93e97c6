"""Rates, round trips, echoes and memory of a pool whose processes have started."""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.adapters import Adapter
from benchmarks.measures.effort import Effort, Figures
from benchmarks.payloads import nothing, pass_gate, rest

MIB = 1 << 20
LARGE = 64 * MIB


def warm_up(pool: Adapter, effort: Effort) -> None:
    """Have each process run calls, so that all have started."""
    for result in [pool.submit(rest, 0.05) for _ in range(2 * pool.workers)]:
        result()
    for result in [pool.submit(nothing) for _ in range(effort.count(500, pool.speed))]:
        result()


def submits(pool: Adapter, effort: Effort) -> Figures:
    """Measure no-op calls per second: submit many, then take all results."""
    calls = effort.count(5_000, pool.speed)

    def many() -> int:
        for result in [pool.submit(nothing) for _ in range(calls)]:
            result()
        return calls

    return {"submits": effort.rate(many)}


def mapped(row: str, usual: int, chunksize: int, pool: Adapter, effort: Effort) -> Figures:
    """Measure items per second through ``map``; with `chunksize` 0 the executor chooses."""
    items = effort.count(usual, pool.speed)

    def many() -> int:
        values = range(items)
        results = pool.map(nothing, values, chunksize) if chunksize else pool.map_unsized(nothing, values)
        assert len(results) == items
        return items

    return {row: effort.rate(many)}


def round_trip(pool: Adapter, effort: Effort) -> Figures:
    """Measure the seconds from a submit to its result, one call at a time."""
    times = []
    for _ in range(effort.count(3_000, pool.speed)):
        start = time.perf_counter()
        pool.submit(nothing)()
        times.append(time.perf_counter() - start)
    times.sort()
    return {"round_trip_p50": times[len(times) // 2], "round_trip_p99": times[int(len(times) * 0.99)]}


def small_echo(pool: Adapter, effort: Effort) -> Figures:
    """Measure calls per second with an argument and a result of 1 KiB."""
    calls, numbers = effort.count(3_000, pool.speed), count()
    return {"echo_1k": effort.rate(partial(echo, pool, partial(distinct_bytes, 1024), calls, numbers))}


def echo(pool: Adapter, make: Callable[[int], Any], calls: int, numbers: Iterator[int]) -> int:
    """Send some objects there and back. Each is an object of its own: an executor may keep what it has sent before."""
    for result in [pool.submit(nothing, make(next(numbers))) for _ in range(calls)]:
        result()
    return calls


def distinct_bytes(size: int, number: int) -> bytes:
    """Return bytes that no other call has."""
    return number.to_bytes(8, "little") + bytes(size - 8)


def distinct_array(size: int, number: int) -> Any:
    """Return an array of numbers that no other call has."""
    import numpy as np

    array = np.ones(size // 8)
    array[0] = number
    return array


def large_echo(
    row: str, size: int, calls: int, make: Callable[[int, int], Any], pool: Adapter, effort: Effort
) -> Figures:
    """Measure bytes per second of echoes, `calls` at a time. The time to make the objects does not count."""
    done, taken, numbers = 0, 0.0, count()
    while taken < effort.seconds or done < 2 * calls * size:
        values = [make(size, next(numbers)) for _ in range(calls)]
        start = time.perf_counter()
        results = [result() for result in [pool.submit(nothing, value) for value in values]]
        taken += time.perf_counter() - start
        assert all(len(result) == len(value) for result, value in zip(results, values, strict=True))
        assert bytes(results[-1][:8]) == bytes(values[-1][:8])
        done += calls * size
        del values, results
    return {row: done / taken}


def memory(pool: Adapter, effort: Effort) -> Figures:
    """Measure the bytes by which this process grows for each call that waits behind a blocked pool."""
    calls = effort.count(20_000, pool.speed)
    with tempfile.TemporaryDirectory() as folder:
        gate = Path(folder, "gate")
        os.mkfifo(gate)
        # Opened for reading too, so that opening it does not block.
        opened = os.open(gate, os.O_RDWR)
        blocked = [pool.submit(pass_gate, str(gate)) for _ in range(pool.workers)]
        waiting: list[Any] = [None] * calls
        gc.collect()
        before = resident()
        for number in range(calls):
            waiting[number] = pool.submit(nothing, number)
        gc.collect()
        grown = settled() - before
        os.write(opened, b"x" * len(blocked))
        for result in blocked + waiting:
            result()
        os.close(opened)
    return {"memory": max(grown, 0) / calls}


def settled() -> int:
    """Return the bytes that this process holds once its other threads have taken what was handed to them."""
    held, deadline = resident(), time.monotonic() + 5.0
    while time.monotonic() < deadline:
        time.sleep(0.2)
        before, held = held, resident()
        if held == before:
            break
    return held


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


MEASURES: dict[str, Callable[[Adapter, Effort], Figures]] = {
    "submits": submits,
    "map_1": partial(mapped, "map_1", 10_000, 1),
    "map_100": partial(mapped, "map_100", 100_000, 100),
    "map_unsized": partial(mapped, "map_unsized", 20_000, 0),
    "round_trip": round_trip,
    "echo_1k": small_echo,
    "echo_1m": partial(large_echo, "echo_1m", MIB, 20, distinct_bytes),
    "echo_64m_bytes": partial(large_echo, "echo_64m_bytes", LARGE, 1, distinct_bytes),
    "echo_64m_numpy": partial(large_echo, "echo_64m_numpy", LARGE, 1, distinct_array),
    "memory": memory,
}
