"""`map`: arguments in chunks, a window of calls ahead, results in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from dragonfly_executor.future import Future

T = TypeVar("T")
UNSIZED_WINDOW = 1024
"""Calls that are submitted ahead of the results taken, where nobody knows how many there will be."""


def run_chunk(fn: Callable[..., T], chunk: Sequence[tuple[Any, ...]]) -> list[T]:
    """One call for many arguments; runs on a slot."""
    return [fn(*arguments) for arguments in chunk]


def map_calls(
    submit: Callable[..., Future[Any]],
    fn: Callable[..., T],
    iterables: Sequence[Iterable[Any]],
    timeout: float | None,
    chunksize: int,
    buffersize: int | None,
) -> Iterator[T]:
    """See `PoolExecutor.map`. The first calls are submitted before this returns."""
    if chunksize < 1:
        raise ValueError("chunksize must be >= 1.")
    if buffersize is not None:
        if isinstance(buffersize, bool) or not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
    deadline = None if timeout is None else time.monotonic() + timeout
    arguments = zip(*iterables)  # noqa: B905  # as the builtin map, it ends with the shortest
    chunks: Iterator[Any] = arguments if chunksize == 1 else _chunked(arguments, chunksize)
    window = _window(iterables, chunksize, buffersize)

    def send(chunk: Any) -> Future[Any]:
        return submit(fn, *chunk) if chunksize == 1 else submit(run_chunk, fn, chunk)

    sent = map(send, chunks)
    pending: deque[Future[Any]] = deque()
    try:
        pending.extend(islice(sent, window))
    except BaseException:
        _cancel(pending)
        raise
    # Once all are submitted the results must not hold the executor: one that was dropped winds down meanwhile.
    results = _results(pending, iter(()) if window is None else sent, deadline)
    return results if chunksize == 1 else (value for values in results for value in values)


def _window(iterables: Sequence[Iterable[Any]], chunksize: int, buffersize: int | None) -> int | None:
    if buffersize is not None:
        return -(-buffersize // chunksize)
    if any(hasattr(iterable, "__len__") for iterable in iterables):
        return None
    return UNSIZED_WINDOW


def _chunked(arguments: Iterator[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    while chunk := list(islice(arguments, size)):
        yield chunk


def _results(pending: deque[Future[Any]], sent: Iterator[Future[Any]], deadline: float | None) -> Iterator[Any]:
    try:
        while pending:
            # The next one goes out before this one is waited for: the slots stay busy while results are taken.
            pending.extend(islice(sent, 1))
            yield _take(pending, deadline)
    finally:
        _cancel(pending)


def _take(pending: deque[Future[Any]], deadline: float | None) -> Any:
    """The oldest result; nothing keeps it alive once the caller lets go of it."""
    future = pending.popleft()
    try:
        return future.result(None if deadline is None else deadline - time.monotonic())
    finally:
        future.cancel()
        del future


def _cancel(futures: Iterable[Future[Any]]) -> None:
    for future in futures:
        future.cancel()
