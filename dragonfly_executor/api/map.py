"""`map`: arguments in chunks, a window of calls ahead, results in order or as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from itertools import islice

from dragonfly_executor.api.item_chunks import ItemChunks
from dragonfly_executor.api.map_items import MapItems
from dragonfly_executor.api.map_results import (
    MapResults,
    ordered_results,
    outcome_of_item,
    results_as_they_come,
    value_of_item,
    values_of_chunk,
)
from dragonfly_executor.engine.call_name import call_name
from dragonfly_executor.engine.map_calls import MapCalls, single_items
from dragonfly_executor.serialization.map_chunk import run_chunk, run_items
from dragonfly_executor.util import validation
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Literal

    from dragonfly_executor.engine.map_calls import Batch

UNSIZED_WINDOW = 1024
"""Maximum number of calls that are submitted ahead of the results taken, if the number of items is unknown."""
SUBMITTED_AT_ONCE = 64
"""Maximum number of calls that are submitted in one step."""


class MapOptions:
    """The options of a map.

    Args:
        timeout, chunksize, buffersize, ordered, return_exceptions: see `Submitter.map`.

    Attributes:
        size: number of items of a call; None for chunks that grow.

    Raises:
        ValueError, TypeError: see `Submitter.map`.
    """

    def __init__(
        self,
        timeout: float | None,
        chunksize: int | Literal["auto"],
        buffersize: int | None,
        *,
        ordered: bool,
        return_exceptions: bool,
    ) -> None:
        if isinstance(chunksize, str):
            if chunksize != "auto":
                raise ValueError(f"chunksize must be a number or 'auto', not {chunksize!r}")
        elif chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        check_buffersize(buffersize)
        for name, value in (("ordered", ordered), ("return_exceptions", return_exceptions)):
            if not isinstance(value, bool):
                raise TypeError(f"{name} must be True or False, not {value!r}")
        self.deadline = None if timeout is None else time.monotonic() + timeout
        self.size = None if isinstance(chunksize, str) else chunksize
        self.buffersize = buffersize
        self.ordered = ordered
        self.returns_errors = return_exceptions
        self._shown_as: str | None = None
        self._runners: Callable[[], int] = int

    def show(self, progress: bool | str, runners: Callable[[], int]) -> None:
        """Show the progress of the map, if `progress` says so.

        Args:
            progress: see `Submitter.map`.
            runners: returns the number of runners that are up.

        Raises:
            TypeError: `progress` is neither a truth value nor text.
        """
        if not isinstance(progress, (bool, str)):
            raise TypeError(f"progress must be True, False or text, not {progress!r}")
        if progress is not False:
            self._shown_as = "" if progress is True else progress
            self._runners = runners

    def shown(
        self,
        results: Generator[Any, None, None],
        fn: Callable[..., Any],
        iterables: Sequence[Iterable[Any]],
        calls: MapCalls,
    ) -> Generator[Any, None, None]:
        """Return the results, which show the map's progress as they are taken if the options say so."""
        if self._shown_as is None:
            return results
        # Most programs have no bar.
        from dragonfly_executor.api.map_progress import MapProgress, total_of, with_progress
        from dragonfly_executor.api.progress_display import make_display

        text = self._shown_as or getattr(fn, "__qualname__", type(fn).__qualname__)
        size, total = self.size or 0, total_of(iterables)

        def settled() -> int:
            """Return the number of items of calls that have ended; 0 if that is known only when they are taken."""
            return calls.settled * size if total is None else min(calls.settled * size, total)

        progress = MapProgress(lambda: make_display(text, total), settled, self._runners)
        return with_progress(results, progress, returns_errors=self.returns_errors)

    @property
    def items_end_alone(self) -> bool:
        """Return whether the items of a chunk have outcomes of their own."""
        return self.size is None or (self.returns_errors and self.size > 1)

    def calls_type(self) -> type[MapCalls]:
        """Return the type of the map's calls."""
        if self.ordered:
            return MapCalls
        # Most programs take the results in order.
        from dragonfly_executor.engine.unordered_calls import UnorderedMapCalls

        return UnorderedMapCalls

    def window(self, iterables: Sequence[Iterable[Any]], size: int) -> int | None:
        """Return the maximum number of calls of `size` items ahead of the results taken; None for all."""
        if self.buffersize is not None:
            return -(-self.buffersize // size)
        if any(hasattr(iterable, "__len__") for iterable in iterables):
            return None
        return UNSIZED_WINDOW


def map_calls(
    make_calls: Callable[..., MapCalls],
    fn: Callable[..., Any],
    iterables: Sequence[Iterable[Any]],
    options: MapOptions,
    slots: Callable[[], int],
    begin: Callable[[], object],
) -> Iterator[Any]:
    """Return the results of a map; see `Submitter.map`. The first calls are submitted before this returns.

    Args:
        make_calls: makes the map's calls: of the function and of the type that it gets. See `MapCalls` for `split`.
        fn, iterables, options: the map.
        slots: returns the number of calls that may run at once.
        begin: called before everything else if it is sure that there are calls.
    """
    validation.refuse(fn)
    if iterables and all(isinstance(iterable, Sized) and len(iterable) for iterable in iterables):
        begin()
    size, chunks, calls_type = options.size, None, options.calls_type()
    if size is None or options.items_end_alone:
        chunks = _item_chunks(fn, iterables, options, slots)
        calls = make_calls(run_items, calls_type, single_items)
        feed = MapFeed(make_calls, calls, chunks, chunks.window, chunks.most_pending)
    else:
        calls = make_calls(fn if size == 1 else run_chunk, calls_type)
        batches = ItemBatches(iterables) if size == 1 else ChunkBatches(fn, iterables, size)
        feed = MapFeed(make_calls, calls, batches, options.window(iterables, size))
    calls.name = call_name(fn)
    try:
        # Once all are submitted, the results must not hold the executor, so that a dropped executor can shut down
        # meanwhile.
        fill = feed.fill if feed.fill() else None
        if chunks is not None:
            results = chunks.results(calls, fill, options.deadline, options.returns_errors)
        elif options.ordered and not options.returns_errors:
            results = ordered_results(calls, fill, options.deadline, size != 1)
        else:
            open_call = outcome_of_item if options.returns_errors else value_of_item if size == 1 else values_of_chunk
            results = results_as_they_come(calls, fill, options.deadline, open_call)
        return MapResults(options.shown(results, fn, iterables, calls), calls)
    except BaseException:
        calls.close()
        raise


def _item_chunks(
    fn: Callable[..., Any], iterables: Sequence[Iterable[Any]], options: MapOptions, slots: Callable[[], int]
) -> ItemChunks:
    if options.size is None:
        return ItemChunks.of_auto_size(fn, iterables, slots(), options.buffersize)
    return ItemChunks.of_size(fn, iterables, options.size, options.window(iterables, options.size))


def check_buffersize(buffersize: int | None) -> None:
    """Raise TypeError or ValueError if this is no `buffersize` of a map."""
    if buffersize is None:
        return
    if isinstance(buffersize, bool) or not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize < 1:
        raise ValueError("buffersize must be None or > 0")


class ItemBatches:
    """The calls of a map whose items are calls of their own."""

    def __init__(self, iterables: Sequence[Iterable[Any]]) -> None:
        self._arguments = zip(*iterables)  # noqa: B905  # as the builtin map, it ends with the shortest
        self._taken = 0

    def take(self, count: int, batch: Batch) -> None:
        """Append the next `count` calls, or the rest, to `batch`. Raises the exceptions of the iterables."""
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
        """Append the next `count` calls, or the rest, to `batch`. Raises the exceptions of the iterables."""
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
        batches: ItemBatches | ChunkBatches | ItemChunks,
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
