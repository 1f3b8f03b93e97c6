"""The executors that are measured, behind one small interface.

How a program gets each of them stands here as text: a cold start is measured in an interpreter that has loaded nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


class Adapter:
    """An executor of the standard library's shape; others override what differs.

    Args:
        workers: calls at once.
    """

    statement = ""
    """The import statement of the class."""
    make = ""
    """The expression that makes a pool; ``{workers}`` is the number of concurrent calls."""
    first = "pool.submit(abs, -1).result()"
    """The expression for a first result from that pool."""

    def __init__(self, workers: int) -> None:
        names: dict[str, Any] = {}
        exec(self.statement, names)  # noqa: S102  # the text is from this file
        self.pool = eval(self.make.format(workers=workers), names)  # noqa: S307

    def submit(self, fn: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        """Submit a call. Return a function that waits for its result."""
        return self.pool.submit(fn, *args).result  # type: ignore[no-any-return]

    def map(self, fn: Callable[..., Any], values: Iterable[Any], chunksize: int) -> list[Any]:
        """Return all results, in order."""
        return list(self.pool.map(fn, values, chunksize=chunksize))

    def close(self) -> None:
        """Shut the pool down, and wait until its processes have ended."""
        self.pool.shutdown(wait=True)


class Processes(Adapter):
    """`ProcessPoolExecutor` on a fork server: its processes are forked from a clean one, as slots are."""

    statement = "from concurrent.futures import ProcessPoolExecutor; from multiprocessing import get_context"
    make = "ProcessPoolExecutor({workers}, mp_context=get_context('forkserver'))"


class Threads(Adapter):
    """`ThreadPoolExecutor`: the cost of a call without pickling."""

    statement = "from concurrent.futures import ThreadPoolExecutor"
    make = "ThreadPoolExecutor({workers})"


class MultiprocessingPool(Adapter):
    """`multiprocessing.Pool`, which is not an Executor."""

    statement = "from multiprocessing import get_context"
    make = "get_context('forkserver').Pool({workers})"
    first = "pool.apply_async(abs, (-1,)).get()"

    def submit(self, fn: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        return self.pool.apply_async(fn, args).get  # type: ignore[no-any-return]

    def close(self) -> None:
        self.pool.close()
        self.pool.join()


class Loky(Adapter):
    """loky's executor: the standard library's design, made more robust; it pickles with cloudpickle."""

    statement = "from loky.process_executor import ProcessPoolExecutor"
    make = "ProcessPoolExecutor({workers})"


class Dragonfly(Adapter):
    """`DragonflyExecutor` on the local backend."""

    statement = "from dragonfly_executor import DragonflyExecutor"
    make = "DragonflyExecutor({workers})"


BASELINE = "ProcessPoolExecutor"
OURS = "DragonflyExecutor"
ADAPTERS: dict[str, type[Adapter]] = {
    BASELINE: Processes,
    OURS: Dragonfly,
    "ThreadPoolExecutor": Threads,
    "multiprocessing.Pool": MultiprocessingPool,
    "loky": Loky,
}
