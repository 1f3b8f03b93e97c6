"""What an operation on an object of multiprocessing takes in a call, in microseconds: ``python -m benchmarks.objects``.

Beside it: the same operation in a process of multiprocessing. ``--ssh HOST`` measures a runner on that host as well.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from typing import Any

from dragonfly_executor import DragonflyExecutor, SSHBackend

TIMES = 50
ROUNDS = 30


def operations(objects: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Return the operations by the names in the report."""
    lock, event, queue, value = objects["lock"], objects["event"], objects["queue"], objects["value"]

    def add() -> None:
        """Add under the lock."""
        with value.get_lock():
            value.value += 1

    def pass_on() -> None:
        """Put an item, and take one."""
        queue.put(1)
        queue.get()

    return {
        "Lock: acquire and release": lambda: lock.acquire() and lock.release(),
        "Event: is_set": event.is_set,
        "Queue: put and get": pass_on,
        "Value: read": lambda: value.value,
        "Value: add under its lock": add,
    }


def measure(objects: dict[str, Any]) -> dict[str, float]:
    """Return the microseconds of each operation: the shortest of some rounds, because other programs only add to it."""
    found = {}
    for name, operation in operations(objects).items():
        rounds = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            for _ in range(TIMES):
                operation()
            rounds.append((time.perf_counter() - start) / TIMES * 1e6)
        found[name] = min(rounds)
    return found


def put_measures(objects: dict[str, Any], results: Any) -> None:
    """Measure in a process of multiprocessing."""
    results.put(measure(objects))


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ssh", metavar="HOST")
    host = parser.parse_args().ssh
    objects = {
        "lock": multiprocessing.Lock(),
        "event": multiprocessing.Event(),
        "queue": multiprocessing.Queue(),
        "value": multiprocessing.Value("i", 0),
    }
    columns: dict[str, dict[str, float]] = {}
    with DragonflyExecutor(1) as executor:
        columns["local runner"] = executor.submit(measure, objects).result()
    if host is not None:
        with DragonflyExecutor(1, backend=SSHBackend([host])) as executor:
            columns[host] = executor.submit(measure, objects).result()
    results: Any = multiprocessing.Queue()
    process = multiprocessing.Process(target=put_measures, args=(objects, results))
    process.start()
    columns["multiprocessing"] = results.get()
    process.join()
    print(f"| microseconds | {' | '.join(columns)} |")
    for name in operations(objects):
        print(f"| {name} | {' | '.join(f'{column[name]:.1f}' for column in columns.values())} |")


if __name__ == "__main__":
    main()
