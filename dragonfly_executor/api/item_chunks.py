"""Chunks of a map whose items end by themselves: an exception ends its own item alone."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from math import inf

from dragonfly_executor import errors
from dragonfly_executor.api.map_items import MapItems
from dragonfly_executor.api.map_values import outcome_of
from dragonfly_executor.core.chunk_size import ChunkSize
from dragonfly_executor.engine.map_call import MapCall
from dragonfly_executor.engine.map_calls import MapCalls, single_items
from dragonfly_executor.serialization.map_chunk import OVERDUE
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Protocol

    from dragonfly_executor.engine.map_calls import Batch

    class ChunkSizes(Protocol):
        """Decides how many items the next chunk has."""

        def next(self, left: int | None) -> int:
            """Return the number of items of the next chunk; `left` are not submitted, as far as it is known."""
            ...

        def ended(self, items: int, seconds: float) -> None:
            """Record that a chunk has run `items` of its items in `seconds` seconds."""


AHEAD = 3
"""Unsettled chunks for each slot: one runs, and the next ones wait for it."""
LEAST_AHEAD = 8
MOST_PENDING = 1024
"""Maximum number of chunks ahead of the results taken: chunks behind a long item end, and wait for their turn."""


class FixedSize:
    """The size of a map's chunks if the user gives it."""

    def __init__(self, size: int) -> None:
        self._size = size

    def next(self, left: int | None) -> int:
        """Return the size."""
        return self._size

    def ended(self, items: int, seconds: float) -> None:
        """Do nothing: the size stays."""


class BoundedSize(ChunkSize):
    """The size of a map's chunks with ``chunksize="auto"``.

    Args:
        slots: the number of chunks that run at once.
        most: maximum number of items of a chunk; None for no limit.
    """

    def __init__(self, slots: int, most: int | None) -> None:
        super().__init__(slots)
        self._most = most

    def next(self, left: int | None = None) -> int:
        """See `ChunkSize`."""
        size = super().next(left)
        return size if self._most is None else min(size, self._most)


class ItemChunks:
    """The calls of a map in chunks whose items end by themselves.

    Args:
        fn, iterables: the map.
        sizes: decides how large the chunks are.
        limit: seconds after which a chunk leaves out the items that it has not begun. They are submitted again.
        window: maximum number of unsettled calls; None for all.
        most_pending: maximum number of calls ahead of the results taken, if there is one besides the window.

    Attributes:
        window, most_pending: see above.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        iterables: Sequence[Iterable[Any]],
        sizes: ChunkSizes,
        *,
        limit: float,
        window: int | None,
        most_pending: int | None,
    ) -> None:
        self._fn = fn
        self._items = MapItems(iterables, keeps_started=True)
        self._sizes = sizes
        self._limit = limit
        self.window = window
        self.most_pending = most_pending

    @classmethod
    def of_auto_size(
        cls, fn: Callable[..., Any], iterables: Sequence[Iterable[Any]], slots: int, buffersize: int | None
    ) -> ItemChunks:
        """Return chunks that grow while the items are short.

        Args:
            fn, iterables: the map.
            slots: the number of calls that run at once.
            buffersize: maximum number of items ahead of the results taken; None for no limit.
        """
        window, most, pending = max(LEAST_AHEAD, AHEAD * slots), None, MOST_PENDING
        if buffersize is not None:
            window = pending = min(window, buffersize)
            most = max(1, buffersize // window)
        sizes = BoundedSize(slots, most)
        return cls(fn, iterables, sizes, limit=OVERDUE, window=window, most_pending=pending)

    @classmethod
    def of_size(
        cls, fn: Callable[..., Any], iterables: Sequence[Iterable[Any]], size: int, window: int | None
    ) -> ItemChunks:
        """Return chunks of `size` items, which run to their end, `window` of them ahead of the results taken."""
        return cls(fn, iterables, FixedSize(size), limit=inf, window=window, most_pending=None)

    def take(self, count: int, batch: Batch) -> None:
        """Append the next `count` calls, or the rest, to `batch`. Raises the exceptions of the iterables."""
        for _ in range(count):
            first = self._items.taken
            columns = self._items.columns(self._sizes.next(self._items.left))
            if not columns:
                return
            batch.append(((self._fn, columns, first, self._limit), first, len(columns[0])))

    def results(
        self, calls: MapCalls, fill: Callable[[], bool] | None, deadline: float | None, returns_errors: bool
    ) -> Generator[Any, None, None]:
        """Yield the values of all items, in the order of `calls`.

        Args:
            calls: the map's calls. This closes them at its end.
            fill: submits the next calls; returns False if there are no more. None if there are none.
            deadline: see `MapCalls.wait`.
            returns_errors: yield the error of an item in place of its value. Otherwise, the first error is raised.
        """
        try:
            while True:
                if fill is not None and not fill():
                    fill = None
                if not calls.pending:
                    return
                call = calls.next_settled(deadline, self._refill_below(calls) if fill is not None else 0)
                if call is None:
                    continue
                values, failed, error = self._outcomes(calls, call, returns_errors)
                # Keep no reference to a value that was yielded.
                values.reverse()
                while len(values) > failed:
                    yield values.pop()
                if error is not None:
                    try:
                        raise error from error.__cause__
                    finally:
                        del error
        finally:
            calls.close()

    def _refill_below(self, calls: MapCalls) -> int:
        """Return the number of unsettled calls below which more are submitted, while a long call holds up the next."""
        if self.window is None or self.most_pending is None or len(calls.pending) >= self.most_pending:
            return 0
        return self.window // 2

    def _outcomes(
        self, calls: MapCalls, call: MapCall, returns_errors: bool
    ) -> tuple[list[Any], int, BaseException | None]:
        """Take the outcomes of a chunk, and submit the items that it has not begun.

        Returns:
            The values; how many of the last ones do not count, because an item before them failed; and its error.
        """
        arguments, size = call.arguments, call.size
        outcomes, error = outcome_of(call)
        if error is not None:
            is_unopened = isinstance(error, errors.CallDeserializationError) and size > 1
            # The slot could not open the chunk, so no item has begun. One item may be the reason.
            calls.replace_next(single_items(arguments, call.first, size) if is_unopened else [])
            if is_unopened:
                return [], 0, None
            return ([error] * size, 0, None) if returns_errors and size else ([], 0, error)
        values, failures, seconds = outcomes
        if type(values) is bytes:
            values = calls.decode_result(values)
        done = len(values)
        self._sizes.ended(done, seconds)
        left_out = done < size and (returns_errors or not failures)
        calls.replace_next(self._rest(arguments, done, size) if left_out else [])
        if not failures:
            return values, 0, None
        if returns_errors:
            for place, data in failures:
                values[place] = calls.decode_error(data)
            return values, 0, None
        place, data = min(failures)
        return values, len(values) - place, calls.decode_error(data)

    def _rest(self, arguments: tuple[Any, ...], done: int, size: int) -> Batch:
        """Return the calls of the items that a chunk has left out."""
        fn, columns, first, limit = arguments
        rest: Batch = []
        while done < size:
            count = min(self._sizes.next(size - done), size - done)
            part = tuple(column[done : done + count] for column in columns)
            rest.append(((fn, part, first + done, limit), first + done, count))
            done += count
        return rest
