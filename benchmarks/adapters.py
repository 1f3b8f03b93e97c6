"""The executors that are measured, behind one small interface.

How a program gets each of them stands here as text: a cold start is measured in an interpreter that has loaded nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar


class NotMeasured(Exception):
    """A figure that an executor does not have."""


class Adapter:
    """An executor of the standard library's shape; others override what differs.

    Args:
        workers: number of concurrent calls.
    """

    library: ClassVar[str] = ""
    """The module that must be installed."""
    statement: ClassVar[str] = ""
    """The import statement of the class."""
    make: ClassVar[str] = ""
    """The expression that makes a pool; ``{workers}`` is the number of concurrent calls."""
    first: ClassVar[str] = "pool.submit(abs, -1).result()"
    """The expression for a first result from that pool."""
    speed: ClassVar[float] = 1.0
    """The share of the usual number of calls that keeps a measurement short."""
    starts_slowly: ClassVar[bool] = False
    """Whether a start takes seconds. Such an executor starts once a round, for all rows that need it started."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        names: dict[str, Any] = {}
        exec(self.statement, names)  # noqa: S102  # the text is from these files
        self.pool = eval(self.make.format(workers=workers), names)  # noqa: S307

    def submit(self, fn: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        """Submit a call. Return a function that waits for its result."""
        return self.pool.submit(fn, *args).result  # type: ignore[no-any-return]

    def map(self, fn: Callable[..., Any], values: Iterable[Any], chunksize: int) -> list[Any]:
        """Return all results, in order."""
        return list(self.pool.map(fn, values, chunksize=chunksize))

    def map_unsized(self, fn: Callable[..., Any], values: Iterable[Any]) -> list[Any]:
        """Return all results, in order, with chunks as the executor chooses them."""
        return list(self.pool.map(fn, values))

    def close(self) -> None:
        """Shut the pool down, and wait until its processes have ended."""
        self.pool.shutdown(wait=True)


class Fork(Adapter):
    """`ProcessPoolExecutor` with fork: the fastest start, and unsafe in a program with threads."""

    statement = "from concurrent.futures import ProcessPoolExecutor; from multiprocessing import get_context"
    make = "ProcessPoolExecutor({workers}, mp_context=get_context('fork'))"


class ForkServer(Adapter):
    """`ProcessPoolExecutor` with forkserver: its processes are forked from a clean one, as slots are."""

    statement = Fork.statement
    make = "ProcessPoolExecutor({workers}, mp_context=get_context('forkserver'))"


class Spawn(Adapter):
    """`ProcessPoolExecutor` with spawn: a new interpreter for each process."""

    statement = Fork.statement
    make = "ProcessPoolExecutor({workers}, mp_context=get_context('spawn'))"


class Threads(Adapter):
    """`ThreadPoolExecutor`: the cost of a call without pickling."""

    statement = "from concurrent.futures import ThreadPoolExecutor"
    make = "ThreadPoolExecutor({workers})"


class MultiprocessingPool(Adapter):
    """`multiprocessing.Pool` with fork. It is not an Executor."""

    statement = "from multiprocessing import get_context"
    make = "get_context('fork').Pool({workers})"
    first = "pool.apply_async(abs, (-1,)).get()"

    def submit(self, fn: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        return self.pool.apply_async(fn, args).get  # type: ignore[no-any-return]

    def close(self) -> None:
        self.pool.close()
        self.pool.join()


class Dragonfly(Adapter):
    """`DragonflyExecutor` on the local backend."""

    statement = "from dragonfly_executor import DragonflyExecutor"
    make = "DragonflyExecutor({workers})"

    def map_unsized(self, fn: Callable[..., Any], values: Iterable[Any]) -> list[Any]:
        return list(self.pool.map(fn, values, chunksize="auto"))
