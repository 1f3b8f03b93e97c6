"""Measure calls of a function in ``__main__``: by name, by cloudpickle, and by `ProcessPoolExecutor` with spawn.

Run it as ``python -m benchmarks.main_script``. The driver runs this file as a script, once for each figure, so that the
functions below stand in ``__main__``. Runners import the script, so its top level imports little.
"""

from __future__ import annotations

import math
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

WAYS = ("by name", "by cloudpickle", "spawn")
WORKERS = 2
CALLS = 3_000
ROUND_TRIPS = 500
FACTOR = 3
OFFSETS = {"a": 1}


def work(x: float) -> int:
    """Use another function, a number and a dict of the script."""
    return scaled(x) + OFFSETS["a"]


def scaled(x: float) -> int:
    return math.floor(x) * FACTOR


def memory(_: object = None) -> int:
    """Return this process's proportional share of memory (PSS) in KiB."""
    with open("/proc/self/smaps_rollup", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def make(way: str) -> Any:
    if way == "spawn":
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        return ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn"))
    from dragonfly_executor import DragonflyExecutor

    if way == "by cloudpickle":
        pickle_by_value()
    return DragonflyExecutor(max_workers=WORKERS)


def pickle_by_value() -> None:
    """Have this process pickle each call of a function in ``__main__`` with plain cloudpickle."""
    from dragonfly_executor.serialization.layout import pack
    from dragonfly_executor.serialization.parent_codec import CallCodec

    def main_call(_: CallCodec, call: tuple[Any, ...]) -> list[Any]:
        import cloudpickle

        return pack(0, b"", [cloudpickle.dumps(call, 5)], [], copy=True)

    CallCodec._main_call = main_call  # type: ignore[method-assign]  # noqa: SLF001


def measured(way: str, launched: float) -> dict[str, float]:
    """Return the figures of one way in this process, which was launched at this time on the monotonic clock."""
    with make(way) as pool:
        assert pool.submit(work, 2.5).result() == 7
        figures = {"first result, ms": (time.monotonic() - launched) * 1e3}
        began = time.monotonic()
        with make(way) as second:
            assert second.submit(work, 2.5).result() == 7
            figures["second executor, ms"] = (time.monotonic() - began) * 1e3
        for future in [pool.submit(work, number) for number in range(CALLS // 6)]:
            future.result()
        began = time.monotonic()
        futures = [pool.submit(work, number) for number in range(CALLS)]
        figures["submits/s"] = CALLS / (time.monotonic() - began)
        for future in futures:
            future.result()
        figures["calls/s"] = CALLS / (time.monotonic() - began)
        times = []
        for number in range(ROUND_TRIPS):
            began = time.monotonic()
            pool.submit(work, number).result()
            times.append(time.monotonic() - began)
        figures["round trip, us"] = sorted(times)[ROUND_TRIPS // 2] * 1e6
        figures["memory of a worker, KiB"] = pool.submit(memory).result()
        figures["memory of the program, KiB"] = memory()
    return figures


def compare(arguments: Sequence[str]) -> None:
    """Print the median of each figure over interleaved rounds."""
    import json
    import subprocess
    from statistics import median

    rounds = int(arguments[0]) if arguments else 15
    # Modules compile once, as they are when they were installed, and not at each start.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    results: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):  # the first round compiles, and does not count
        start = number % len(WAYS)
        for way in WAYS[start:] + WAYS[:start]:
            command = [sys.executable, __file__, way, str(time.monotonic())]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
            if number:
                results[way].append(json.loads(done.stdout))
    print(f"{'':<28}", *(f"{way:>16}" for way in WAYS))
    for name in results[WAYS[0]][0]:
        print(f"{name:<28}", *(f"{median(row[name] for row in results[way]):>16,.0f}" for way in WAYS))


def main() -> None:
    if sys.argv[1:2] and sys.argv[1] in WAYS:
        import json

        print(json.dumps(measured(sys.argv[1], float(sys.argv[2]))))
    else:
        compare(sys.argv[1:])


if __name__ == "__main__":
    main()
