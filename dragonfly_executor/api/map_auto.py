"""Chunks of automatic size: they grow while a map's items are short, and each item ends by itself."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence

from dragonfly_executor import errors
from dragonfly_executor.api.map_items import MapItems
from dragonfly_executor.api.map_values import value_of
from dragonfly_executor.core.chunk_size import ChunkSize
from dragonfly_executor.engine.map_calls import MapCall, MapCalls
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.engine.map_calls import Batch

AHEAD = 3
"""Unsettled chunks for each slot: one runs, and the next ones wait for it."""
LEAST_AHEAD = 8
MOST_PENDING = 1024
"""Maximum number of chunks ahead of the results taken: chunks behind a long item end, and wait for their turn."""


class AutoChunks:
    """The calls of a map with ``chunksize="auto"``.

    Args:
        fn, iterables: the map.
        slots: the number of calls that run at once.
        buffersize: maximum number of items ahead of the results taken; None for no limit.

    Attributes:
        window: maximum number of unsettled calls.
        most_pending: maximum number of calls ahead of the results taken.
    """

    def __init__(
        self, fn: Callable[..., Any], iterables: Sequence[Iterable[Any]], slots: int, buffersize: int | None
    ) -> None:
        self._fn = fn
        self._items = MapItems(iterables, keeps_started=True)
        self._size = ChunkSize(slots)
        window = max(LEAST_AHEAD, AHEAD * slots)
        self.window = window if buffersize is None else min(window, buffersize)
        self.most_pending = MOST_PENDING if buffersize is None else self.window
        self._most = None if buffersize is None else max(1, buffersize // self.window)

    def take(self, count: int, batch: Batch) -> None:
        """Append the next `count` calls, or those that are left, to `batch`. Raises what the iterables raise."""
        for _ in range(count):
            first = self._items.taken
            columns = self._items.columns(self._next_size(self._items.left))
            if not columns:
                return
            batch.append(((self._fn, columns, first), first, len(columns[0])))

    def results(
        self, calls: MapCalls, fill: Callable[[], bool] | None, deadline: float | None
    ) -> Generator[Any, None, None]:
        """Yield the values of all items in order.

        Args:
            calls: the map's calls. This closes them at its end.
            fill: submits the next calls; returns False if there are no more. None if there are none.
            deadline: see `MapCalls.wait`.
        """
        pending = calls.pending
        try:
            while True:
                if fill is not None and not fill():
                    fill = None
                if not pending:
                    return
                if not pending[0].is_settled:
                    low = self.window // 2 if fill is not None and len(pending) < self.most_pending else 0
                    calls.wait(pending[0], deadline, low)
                    if not pending[0].is_settled:
                        continue
                values, failed, error = self._outcomes(calls, pending[0])
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

    def _outcomes(self, calls: MapCalls, call: MapCall) -> tuple[list[Any], int, BaseException | None]:
        """Take the outcomes of a chunk, and submit the items that it has not begun.

        Returns:
            The values; how many of the last ones do not count, because an item before them failed; and its error.
        """
        arguments, size = call.arguments, call.size
        try:
            values, failures, seconds = value_of(call)
        except errors.CallDeserializationError:
            if size <= 1:
                raise
            # The slot could not open the chunk, so no item has begun. One item may be the reason.
            calls.replace_first(single_items(arguments, call.first, size))
            return [], 0, None
        if type(values) is bytes:
            values = calls.decode_result(values)
        done = len(values)
        self._size.ended(done, seconds)
        rest: Batch = []
        if done < size and not failures:
            _, columns, first = arguments
            while done < size:
                count = min(self._next_size(size - done), size - done)
                part = tuple(column[done : done + count] for column in columns)
                rest.append(((self._fn, part, first + done), first + done, count))
                done += count
        calls.replace_first(rest)
        if not failures:
            return values, 0, None
        place, data = min(failures)
        return values, len(values) - place, calls.decode_error(data)

    def _next_size(self, left: int | None) -> int:
        size = self._size.next(left)
        return size if self._most is None else min(size, self._most)


def single_items(arguments: tuple[Any, ...], first: int, size: int) -> Batch:
    """Return a chunk as chunks of one item each: one of them cannot be sent."""
    fn, columns, _ = arguments
    numbers = range(size)
    return [((fn, tuple(column[n : n + 1] for column in columns), first + n), first + n, 1) for n in numbers]
