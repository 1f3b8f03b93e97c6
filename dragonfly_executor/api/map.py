"""`map`: arguments in chunks, a window of calls ahead, results in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice

from dragonfly_executor.api.map_auto import AutoChunks, single_items
from dragonfly_executor.api.map_items import MapItems
from dragonfly_executor.api.map_values import value_of
from dragonfly_executor.engine.map_calls import MapCalls
from dragonfly_executor.serialization.map_chunk import run_chunk, run_items
from dragonfly_executor.util import validation
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Literal, TypeVar

    from dragonfly_executor.engine.map_calls import Batch

    T = TypeVar("T")
else:
    T = object

UNSIZED_WINDOW = 1024
"""Maximum number of calls that are submitted ahead of the results taken, if the number of items is unknown."""
SUBMITTED_AT_ONCE = 64
"""Maximum number of calls that are submitted in one step."""


class MapResults(Iterator[T]):
    """The results of a map. Closing it cancels the remaining calls, at any time.

    Dropping it does so only after the first result was asked for, as in the standard library: a map whose results are
    never asked for runs for its effects.
    """

    # The generator's own method in a slot takes half the time of a method that calls it.
    __slots__ = ("__next__", "__weakref__", "_calls", "_results")

    if TYPE_CHECKING:

        def __next__(self) -> T:
            """Return the next result."""
            ...

    def __init__(self, results: Generator[T, None, None], calls: MapCalls) -> None:
        self._results = results
        self._calls = calls
        self.__next__ = results.__next__  # type: ignore[method-assign]

    def close(self) -> None:
        """Cancel the remaining calls. There are no more results."""
        self._results.close()
        # Python does not run the cleanup of a generator that has not begun.
        self._calls.close()


def map_calls(
    make_calls: Callable[..., MapCalls],
    fn: Callable[..., T],
    iterables: Sequence[Iterable[Any]],
    timeout: float | None,
    chunksize: int | Literal["auto"],
    buffersize: int | None,
    slots: Callable[[], int],
) -> Iterator[T]:
    """Return the results of a map; see `PoolExecutor.map`. The first calls are submitted before this returns.

    Args:
        make_calls: makes the map's calls, which are calls of the function that it gets. See `MapCalls` for `split`.
        fn, iterables, timeout, chunksize, buffersize: the map.
        slots: returns the number of calls that may run at once.
    """
    if isinstance(chunksize, str):
        if chunksize != "auto":
            raise ValueError(f"chunksize must be a number or 'auto', not {chunksize!r}")
    elif chunksize < 1:
        raise ValueError("chunksize must be >= 1.")
    check_buffersize(buffersize)
    validation.refuse(fn)
    deadline = None if timeout is None else time.monotonic() + timeout
    auto: AutoChunks | None = None
    if chunksize == "auto":
        auto = AutoChunks(fn, iterables, slots(), buffersize)
        calls = make_calls(run_items, single_items)
        feed = MapFeed(make_calls, calls, auto, auto.window, auto.most_pending)
    else:
        calls = make_calls(fn if chunksize == 1 else run_chunk)
        batches = ItemBatches(iterables) if chunksize == 1 else ChunkBatches(fn, iterables, chunksize)
        feed = MapFeed(make_calls, calls, batches, _window(iterables, chunksize, buffersize))
    try:
        # Once all are submitted, the results must not hold the executor, so that a dropped executor can shut down
        # meanwhile.
        fill = feed.fill if feed.fill() else None
        if auto is not None:
            return MapResults(auto.results(calls, fill, deadline), calls)
        return MapResults(_results(calls, fill, deadline, chunksize != 1), calls)
    except BaseException:
        calls.close()
        raise


def check_buffersize(buffersize: int | None) -> None:
    """Raise TypeError or ValueError if this is no `buffersize` of a map."""
    if buffersize is None:
        return
    if isinstance(buffersize, bool) or not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize < 1:
        raise ValueError("buffersize must be None or > 0")


def _window(iterables: Sequence[Iterable[Any]], chunksize: int, buffersize: int | None) -> int | None:
    if buffersize is not None:
        return -(-buffersize // chunksize)
    if any(hasattr(iterable, "__len__") for iterable in iterables):
        return None
    return UNSIZED_WINDOW


class ItemBatches:
    """The calls of a map whose items are calls of their own."""

    def __init__(self, iterables: Sequence[Iterable[Any]]) -> None:
        self._arguments = zip(*iterables)  # noqa: B905  # as the builtin map, it ends with the shortest
        self._taken = 0

    def take(self, count: int, batch: Batch) -> None:
        """Append the next `count` calls, or those that are left, to `batch`. Raises what the iterables raise."""
        number = self._taken
        for arguments in islice(self._arguments, count):
            batch.append((arguments, number, 1))
            number = self._taken = number + 1


class ChunkBatches:
    """The calls of a map whose items are run in chunks."""

    def __init__(self, fn: Callable[..., Any], iterables: Sequence[Iterable[Any]], size: int) -> None:
        self._fn = fn
        self._items = MapItems(iterables)
        self._size = size

    def take(self, count: int, batch: Batch) -> None:
        """Append the next `count` calls, or those that are left, to `batch`. Raises what the iterables raise."""
        for _ in range(count):
            first = self._items.taken
            columns = self._items.columns(self._size)
            if not columns:
                return
            batch.append(((self._fn, columns, first), first, self._size))


class MapFeed:
    """Submits the calls of a map, as far ahead as its window reaches.

    Args:
        submitter: kept alive until all calls are submitted: a dropped executor shuts down.
        calls: takes the calls.
        batches: makes the calls.
        window: maximum number of calls ahead; None for all.
        most_pending: if given, `window` is for unsettled calls alone, and this is for all.
    """

    def __init__(
        self,
        submitter: object,
        calls: MapCalls,
        batches: ItemBatches | ChunkBatches | AutoChunks,
        window: int | None,
        most_pending: int | None = None,
    ) -> None:
        self._submitter = submitter
        self._calls = calls
        self._batches = batches
        self._window = window
        self._most_pending = most_pending
        # The first calls start while the next ones are encoded.
        self._count = 1
        self._least = 1 if window is None else min(SUBMITTED_AT_ONCE, max(1, window // 16))
        """Calls for which there must be room: a small window is filled up at once, a large one in steps."""

    def fill(self) -> bool:
        """Submit the calls that the window has room for. Returns False if there are no more."""
        calls = self._calls
        while True:
            count = self._count
            if self._window is not None:
                room = self._window - (len(calls.pending) if self._most_pending is None else calls.unsettled)
                if self._most_pending is not None:
                    room = min(room, self._most_pending - len(calls.pending))
                if room < self._least:
                    return True
                count = min(count, room)
            batch: Batch = []
            try:
                self._batches.take(count, batch)
            except Exception as error:  # an interrupt is raised at once
                calls.submit(batch)
                calls.fail(error)
                return False
            calls.submit(batch)
            if len(batch) < count:
                return False
            self._count = min(2 * self._count, SUBMITTED_AT_ONCE)


def _results(
    calls: MapCalls, fill: Callable[[], bool] | None, deadline: float | None, in_chunks: bool
) -> Generator[Any, None, None]:
    pending = calls.pending
    try:
        while True:
            # The next calls are submitted before the wait for this one, so that the slots stay busy.
            if fill is not None and not fill():
                fill = None
            if not pending:
                return
            if not pending[0].is_settled:
                # The call stays in the queue meanwhile, so that an interrupt finds it there.
                calls.wait(pending[0], deadline)
            if in_chunks:
                values = value_of(pending.popleft())
                # Keep no reference to a value that was yielded.
                values.reverse()
                while values:
                    yield values.pop()
            else:
                yield value_of(pending.popleft())
    finally:
        calls.close()
