"""The iterators over the results of a map."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

from dragonfly_executor.api.map_values import outcome_of, value_of
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, TypeVar

    from dragonfly_executor.engine.map_call import MapCall
    from dragonfly_executor.engine.map_calls import MapCalls

    T = TypeVar("T")
else:
    T = object


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


def ordered_results(
    calls: MapCalls, fill: Callable[[], bool] | None, deadline: float | None, in_chunks: bool
) -> Generator[Any, None, None]:
    """Yield the values of the calls in order, and raise the first error.

    Args:
        calls: the map's calls. This closes them at its end.
        fill: submits the next calls; returns False if there are no more. None if there are none.
        deadline: see `MapCalls.wait`.
        in_chunks: each call has the values of several items.
    """
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


def results_as_they_come(
    calls: MapCalls, fill: Callable[[], bool] | None, deadline: float | None, open_call: Callable[[MapCall], list[Any]]
) -> Generator[Any, None, None]:
    """Yield what `open_call` returns for each call, in the order of `calls`; see `ordered_results` for the rest."""
    try:
        while True:
            if fill is not None and not fill():
                fill = None
            if not calls.pending:
                return
            call = calls.next_settled(deadline)
            if call is None:
                continue
            calls.remove_next()
            values = open_call(call)
            values.reverse()
            while values:
                yield values.pop()
    finally:
        calls.close()


def values_of_chunk(call: MapCall) -> list[Any]:
    """Return the values of a call of several items, or raise its error."""
    values: list[Any] = value_of(call)
    return values


def value_of_item(call: MapCall) -> list[Any]:
    """Return the value of a call of one item, or raise its error."""
    return [value_of(call)]


def outcome_of_item(call: MapCall) -> list[Any]:
    """Return the value of a call of one item, or its error. An error of an iterable, which has no item, is raised."""
    if not call.size:
        return [value_of(call)]
    value, error = outcome_of(call)
    return [value if error is None else error]
