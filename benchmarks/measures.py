"""The measurements. Each takes one figure of one executor, in an interpreter of its own."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.adapters import ADAPTERS, Adapter

SUBMITS = 5_000
ROUND_TRIPS = 1_500
MAPPED = 50_000
QUEUED = 20_000
MIN_SECONDS = 1.0  # a rate is counted over at least this long
LIMIT = 300.0  # seconds for one measurement
ROOT = Path(__file__).parents[1]

# The main program of a measurement is `-c`. The executors' processes import a script again, and send its definitions,
# each in its own way.
_WARM = "import sys; from benchmarks import measures; print(measures.WARM[sys.argv[1]](*sys.argv[2:]))"
_IMPORT = "import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
_COLD = (
    "import time; start = time.perf_counter(); {statement}; pool = {make}; "
    "assert {first} == 1; print(time.perf_counter() - start)"
)


def measure(name: str, executor: str, workers: int) -> float:
    """Take one figure, in seconds, bytes or a rate per second.

    Raises:
        subprocess.SubprocessError: the measurement failed, or took longer than the limit.
    """
    kind = ADAPTERS[executor]
    texts = {"statement": kind.statement, "make": kind.make.format(workers=workers), "first": kind.first}
    script = {"cold_start": _COLD, "import_time": _IMPORT}.get(name, _WARM).format(**texts)
    command = [sys.executable, "-c", script, name, executor, str(workers)]
    # Modules compile once, as they are when they were installed, and not at each start.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT, check=True)
    return float(done.stdout)


def throughput(executor: str, workers: str) -> float:
    """Measure no-op calls per second: submit many, then take all results."""

    def many(pool: Adapter) -> int:
        for result in [pool.submit(nothing) for _ in range(SUBMITS)]:
            result()
        return SUBMITS

    with _warm(executor, workers) as pool:
        return _rate(many, pool)


def map_throughput(executor: str, workers: str) -> float:
    """Measure values per second through ``map`` with ``chunksize=100``."""

    def many(pool: Adapter) -> int:
        assert len(pool.map(nothing, range(MAPPED), 100)) == MAPPED
        return MAPPED

    with _warm(executor, workers) as pool:
        return _rate(many, pool)


def round_trip(executor: str, workers: str) -> float:
    """Measure the median seconds from a submit to its result, one call at a time."""
    times = []
    with _warm(executor, workers) as pool:
        for _ in range(ROUND_TRIPS):
            start = time.perf_counter()
            pool.submit(nothing)()
            times.append(time.perf_counter() - start)
    return sorted(times)[ROUND_TRIPS // 2]


def memory(executor: str, workers: str) -> float:
    """Measure the bytes by which this process grows for each call that waits behind a blocked pool."""
    with tempfile.TemporaryDirectory() as folder, _warm(executor, workers) as pool:
        gate = Path(folder, "gate")
        os.mkfifo(gate)
        # Opened for reading too, so that opening it does not block.
        opened = os.open(gate, os.O_RDWR)
        blocked = [pool.submit(_pass_gate, str(gate)) for _ in range(int(workers))]
        waiting: list[Any] = [None] * QUEUED
        gc.collect()
        before = _resident()
        for number in range(QUEUED):
            waiting[number] = pool.submit(nothing, number)
        gc.collect()
        grown = _resident() - before
        os.write(opened, b"x" * len(blocked))
        for result in blocked + waiting:
            result()
        os.close(opened)
    return grown / QUEUED


WARM: dict[str, Callable[[str, str], float]] = {
    taken.__name__: taken for taken in (throughput, round_trip, map_throughput, memory)
}


def nothing(value: object = None) -> object:
    """Do nothing: the cheapest call."""
    return value


def _pass_gate(path: str) -> bytes:
    with open(path, "rb", buffering=0) as gate:
        return gate.read(1)


@contextmanager
def _warm(executor: str, workers: str) -> Iterator[Adapter]:
    """Yield a pool whose processes have all started."""
    pool = ADAPTERS[executor](int(workers))
    for result in [pool.submit(time.sleep, 0.05) for _ in range(2 * int(workers))]:
        result()
    for result in [pool.submit(nothing) for _ in range(SUBMITS // 10)]:
        result()
    yield pool
    pool.close()


def _rate(many: Callable[[Adapter], int], pool: Adapter) -> float:
    done = 0
    start = time.perf_counter()
    while (taken := time.perf_counter() - start) < MIN_SECONDS:
        done += many(pool)
    return done / taken


def _resident() -> int:
    """Return the bytes of memory that this process holds."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
