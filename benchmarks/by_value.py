"""Measure calls whose functions and classes travel by value, beside loky: ``python -m benchmarks.by_value``.

The driver runs this file's text with ``python -c``. So the functions and classes below stand in a ``__main__`` without
a file, like those of a notebook, and no worker can import them.
"""

from __future__ import annotations

import math
import sys
import time
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    Case = Callable[[Any, int], None]

WORKERS = 2
ROUNDS = 3
LARGE = 64 * 1024 * 1024


class Point:
    """A notebook's class: its instances are arguments and results, and its methods are functions."""

    scale = 3

    def __init__(self, x: float, y: float) -> None:
        self.x = x
        self.y = y

    def norm(self) -> float:
        return self.scale * (self.x**2 + self.y**2) ** 0.5

    def moved(self, by: Point) -> Point:
        return Point(self.x + by.x, self.y + by.y)


def move(point: Point, by: Point) -> Point:
    return point.moved(by)


def class_as_function(pool: Any, calls: int) -> None:
    results = [future.result() for future in [pool.submit(Point, number, 1) for number in range(calls)]]
    assert all(isinstance(result, Point) for result in results)


def instances(pool: Any, calls: int) -> None:
    by = Point(1, 2)
    results = [future.result() for future in [pool.submit(move, Point(number, 1), by) for number in range(calls)]]
    assert all(isinstance(result, Point) for result in results)
    assert [result.x for result in results] == [number + 1 for number in range(calls)]


def methods(pool: Any, calls: int) -> None:
    points = [Point(number, 0) for number in range(calls)]
    results = [future.result() for future in [pool.submit(point.norm) for point in points]]
    assert results == [3 * number for number in range(calls)]


def one_at_a_time(pool: Any, calls: int) -> None:
    point = Point(0, 0)
    for _ in range(calls):
        point = pool.submit(point.moved, Point(1, 1)).result()
    assert point.x == calls


def local_class(pool: Any, calls: int) -> None:
    class Local(Point):
        def twice(self) -> Local:
            return Local(2 * self.x, 2 * self.y)

    results = [future.result() for future in [pool.submit(Local(number, 0).twice) for number in range(calls)]]
    assert all(type(result) is Local for result in results)


def lambdas_with_defaults(pool: Any, calls: int) -> None:
    futures = [pool.submit(lambda number=number: number) for number in range(calls)]
    assert [future.result() for future in futures] == list(range(calls))


def adder(number: int) -> Callable[[int], int]:
    return lambda x: x + number


def lambdas_of_a_factory(pool: Any, calls: int) -> None:
    futures = [pool.submit(adder(number), 1) for number in range(calls)]
    assert [future.result() for future in futures] == list(range(1, calls + 1))


def lambdas_over_globals(pool: Any, calls: int) -> None:
    futures = [pool.submit(lambda number=number: adder(number)(WORKERS)) for number in range(calls)]
    assert [future.result() for future in futures] == list(range(2, calls + 2))


def compiled_lambdas(pool: Any, calls: int) -> None:
    futures = [pool.submit(eval(f"lambda: {number}")) for number in range(calls)]  # noqa: S307
    assert [future.result() for future in futures] == list(range(calls))


def one_lambda(pool: Any, calls: int) -> None:
    base = 1
    function = lambda x: x + base  # noqa: E731
    futures = [pool.submit(function, number) for number in range(calls)]
    assert [future.result() for future in futures] == list(range(1, calls + 1))


def large_bytes(pool: Any, calls: int) -> None:
    assert sum(pool.map(lambda number: DATA[number], range(calls))) == 0


def large_array(pool: Any, calls: int) -> None:
    assert sum(pool.map(lambda number: int(ARRAY[number]), range(calls))) == 0


def captured_bytes(pool: Any, calls: int) -> None:
    data = DATA
    assert sum(pool.map(lambda number: data[number], range(calls))) == 0


def captured_array(pool: Any, calls: int) -> None:
    array = ARRAY
    assert sum(pool.map(lambda number: int(array[number]), range(calls))) == 0


def functions_of_a_module(pool: Any, calls: int) -> None:
    futures = [pool.submit(MODULE.work, number) for number in range(calls)]
    assert [future.result() for future in futures] == [2 * number + 1 for number in range(calls)]


DATA = b""
ARRAY: Any = None
MODULE = ModuleType("by_hand")
MODULE_TEXT = """
FACTOR = 2
def work(number): return scaled(number) + 1
def scaled(number): return FACTOR * number
"""
CASES: dict[str, tuple[Case, int]] = {
    "a class as the function": (class_as_function, 1500),
    "instances as arguments and results": (instances, 1500),
    "methods as functions": (methods, 1500),
    "methods, one call at a time": (one_at_a_time, 500),
    "instances of a local class": (local_class, 1500),
    "lambdas with a default": (lambdas_with_defaults, 4000),
    "lambdas of a factory": (lambdas_of_a_factory, 4000),
    "lambdas over globals": (lambdas_over_globals, 4000),
    "lambdas, each compiled": (compiled_lambdas, 4000),
    "one lambda": (one_lambda, 4000),
    "functions of a module by value": (functions_of_a_module, 4000),
    "64 MiB of bytes, a global": (large_bytes, 100),
    "64 MiB of bytes, captured": (captured_bytes, 100),
    "64 MiB array, a global": (large_array, 100),
    "64 MiB array, captured": (captured_array, 100),
}
FEWER = 20
"""loky sends the 64 MiB with each call, so it gets fewer of these calls."""


def pools() -> dict[str, Any]:
    from dragonfly_executor import DragonflyExecutor, LocalBackend

    made: dict[str, Any] = {
        "dragonfly": DragonflyExecutor(max_workers=WORKERS),
        # Its payloads travel over a stream, as those for other machines do.
        "over a link": DragonflyExecutor(max_workers=WORKERS, backend=LocalBackend(shared_memory=0)),
    }
    try:
        from loky import ProcessPoolExecutor
    except ImportError:  # pip install dragonfly-executor[bench]
        return made
    return {**made, "loky": ProcessPoolExecutor(WORKERS)}


def measured(names: Sequence[str], divisor: int = 1) -> dict[str, dict[str, list[float]]]:
    """Return the seconds a call of each case and pool, in alternating rounds. Each case has calls / `divisor` calls."""
    import cloudpickle
    import numpy as np

    globals().update(DATA=bytes(LARGE), ARRAY=np.zeros(LARGE // 8))
    exec(MODULE_TEXT, MODULE.__dict__)  # noqa: S102  # the text is from this file
    sys.modules[MODULE.__name__] = MODULE
    cloudpickle.register_pickle_by_value(MODULE)  # for loky: this package sees that no runner can import it
    figures: dict[str, dict[str, list[float]]] = {}
    running = pools()
    for pool in running.values():
        for future in [pool.submit(time.sleep, 0.1) for _ in range(2 * WORKERS)]:
            future.result()
    for name in names:
        case, calls = CASES[name][0], CASES[name][1] // divisor
        figures[name] = {key: [] for key in running}
        for number in range(ROUNDS + 1):  # the first round warms up, and does not count
            for key, pool in running.items():
                count = calls // FEWER if name.startswith("64") and key == "loky" else calls
                began = time.perf_counter()
                case(pool, count)
                if number:
                    figures[name][key].append((time.perf_counter() - began) / count)
    for pool in running.values():
        pool.shutdown()
    return figures


def compare(names: Sequence[str]) -> None:
    """Print the median time of a call, and the ratio of the medians."""
    import json
    import subprocess
    from pathlib import Path
    from statistics import median

    command = [sys.executable, "-c", Path(__file__).read_text(encoding="utf-8"), "measure", "1", *(names or CASES)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=3600, check=True)
    columns = ("dragonfly", "over a link", "loky")
    print(f"{'us a call':<36}" + "".join(f"{column:>13}" for column in columns) + f"{'ratio':>8}")
    for name, figures in json.loads(done.stdout).items():
        times = [median(figures.get(key, [math.nan])) * 1e6 for key in columns]
        print(f"{name:<36}" + "".join(f"{time:>13,.1f}" for time in times) + f"{times[-1] / times[0]:>8.2f}")


def main() -> None:
    if sys.argv[1:2] == ["measure"]:
        import json

        print(json.dumps(measured(sys.argv[3:], int(sys.argv[2]))))
    else:
        compare(sys.argv[1:])


if __name__ == "__main__":
    main()
