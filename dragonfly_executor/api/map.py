"""`map`: arguments in chunks, a window of calls ahead, results in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from copy import copy
from itertools import count, islice

from dragonfly_executor import errors
from dragonfly_executor.serialization.map_chunk import add_note, item, run_chunk
from dragonfly_executor.util import validation
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, TypeVar

    T = TypeVar("T")
else:
    T = object

UNSIZED_WINDOW = 1024
"""Maximum number of calls that are submitted ahead of the results taken, if the number of items is unknown."""


class MapResults(Iterator[T]):
    """The results of a map. Closing it cancels the remaining calls, at any time.

    Dropping it does so only after the first result was asked for, as in the standard library: a map whose results are
    never asked for runs for its effects.
    """

    def __init__(self, results: Generator[T, None, None], pending: deque[Future[Any]]) -> None:
        self._results = results
        self._pending = pending

    def __next__(self) -> T:
        return next(self._results)

    def close(self) -> None:
        """Cancel the remaining calls. There are no more results."""
        self._results.close()
        # Python does not run the cleanup of a generator that has not begun.
        _cancel(self._pending)
        self._pending.clear()


def map_calls(
    submit: Callable[..., Future[Any]],
    fn: Callable[..., T],
    iterables: Sequence[Iterable[Any]],
    timeout: float | None,
    chunksize: int,
    buffersize: int | None,
) -> Iterator[T]:
    """Return the results of a map; see `PoolExecutor.map`. The first calls are submitted before this returns."""
    if chunksize < 1:
        raise ValueError("chunksize must be >= 1.")
    if buffersize is not None:
        if isinstance(buffersize, bool) or not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
    validation.refuse(fn)
    deadline = None if timeout is None else time.monotonic() + timeout
    arguments = zip(*iterables)  # noqa: B905  # as the builtin map, it ends with the shortest
    chunks: Iterator[Any] = arguments if chunksize == 1 else _chunked(arguments, chunksize)
    firsts = count(0, chunksize)
    window = _window(iterables, chunksize, buffersize)

    def send(chunk: Any) -> Future[Any]:
        """Submit one item's arguments as a call, or a chunk of items as one call."""
        return submit(fn, *chunk) if chunksize == 1 else submit(run_chunk, fn, chunk, next(firsts))

    sent = _submitted(chunks, send)
    pending: deque[Future[Any]] = deque()
    try:
        pending.extend(islice(sent, window))
        # Once all are submitted, the results must not hold the executor, so that a dropped executor can shut down
        # meanwhile.
        results = _results(pending, iter(()) if window is None else sent, deadline, chunksize)
        return MapResults(results if chunksize == 1 else (value for values in results for value in values), pending)
    except BaseException:
        _cancel(pending)
        raise


def _window(iterables: Sequence[Iterable[Any]], chunksize: int, buffersize: int | None) -> int | None:
    if buffersize is not None:
        return -(-buffersize // chunksize)
    if any(hasattr(iterable, "__len__") for iterable in iterables):
        return None
    return UNSIZED_WINDOW


def _chunked(arguments: Iterator[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    while chunk := list(islice(arguments, size)):
        yield chunk


def _submitted(chunks: Iterator[Any], send: Callable[[Any], Future[Any]]) -> Iterator[Future[Any]]:
    """Yield the future of each call, which is submitted on demand. An error of the arguments keeps its turn."""

    def submit_next() -> Future[Any] | None:
        """Submit the next call and return its future; None if there are no more."""
        nonlocal chunks
        try:
            chunk = next(chunks)
        except StopIteration:
            return None
        except Exception as error:  # an interrupt is raised at once
            chunks = iter(())
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed
        return send(chunk)

    return iter(submit_next, None)


def _results(
    pending: deque[Future[Any]], sent: Iterator[Future[Any]], deadline: float | None, chunksize: int
) -> Generator[Any, None, None]:
    try:
        for first in count(0, chunksize):
            if not pending:
                return
            # The next call is submitted before the wait for this one, so that the slots stay busy.
            pending.extend(islice(sent, 1))
            yield _take(pending, deadline, first, chunksize)
    finally:
        _cancel(pending)


def _take(pending: deque[Future[Any]], deadline: float | None, first: int, chunksize: int) -> Any:
    """Return the oldest result, and keep no reference to it. An error gets a note that names its item."""
    # The future stays in the queue until this ends, so that an interrupt finds it there.
    future = pending[0]
    try:
        return future.result(None if deadline is None else deadline - time.monotonic())
    except BaseException as error:
        if not future.done() or type(future) is Future:
            raise  # this wait has timed out; or the arguments' iterator has raised
        told = _named(error, first, chunksize)
        if told is error:
            raise
        raise told from error.__cause__
    finally:
        future.cancel()
        pending.popleft()
        del future


def _named(error: BaseException, first: int, chunksize: int) -> BaseException:
    """Return the error with a note that names the item, or the items of the chunk, that it belongs to."""
    if isinstance(error, errors.DragonflyError) and not isinstance(error, errors.RemoteCallError):
        if isinstance(error, (errors.BudgetExceeded, errors.BootError, errors.PoolBrokenError)):
            return error  # not the fault of an item
        if chunksize > 1 and isinstance(error, (errors.CallSerializationError, errors.ResultSerializationError)):
            return error  # its text names the item
        # A lost runner has one error for all calls that were on it, and only this call must have the note.
        error = copy(error).with_traceback(error.__traceback__)
    elif chunksize > 1:
        return error  # the slot added the item
    add_note(error, f"raised for {item(first, first + chunksize - 1)}")
    return error


def _cancel(futures: Iterable[Future[Any]]) -> None:
    try:
        for future in futures:
            future.cancel()
    except BaseException:  # an interrupt
        for future in futures:
            future.cancel()
        raise
