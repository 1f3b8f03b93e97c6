"""`amap`: a window of calls ahead, and results in a task of an asyncio event loop, in order or as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress

from dragonfly_executor.api.map import UNSIZED_WINDOW, ItemBatches, MapFeed, check_buffersize
from dragonfly_executor.api.map_values import value_of
from dragonfly_executor.engine.awaited_map import AwaitedCalls, UnorderedAwaitedCalls
from dragonfly_executor.engine.awaiting import running_loop
from dragonfly_executor.util import validation
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self, TypeVar

    from dragonfly_executor.engine.map_call import MapCall

    T = TypeVar("T")
else:
    T = object

TURN = 64
"""Number of results that are there already which a task gets before the other tasks of its loop have their turn."""


class ItemFeed(Protocol):
    """Submits the calls of an `amap`, as far ahead as its window reaches."""

    def fill(self) -> bool:
        """Submit the calls that there is room for, as far as their items are there. Returns False after the last."""
        ...

    def close(self) -> None:
        """Take no more items."""


class AsyncMapResults(AsyncIterator[T]):
    """The results of an `amap`. Closing it, or dropping it, cancels the remaining calls.

    The first calls are submitted when the first result is asked for. It is an asynchronous context manager too, which
    closes it at its end.
    """

    def __init__(self, calls: AwaitedCalls, feed: ItemFeed) -> None:
        self._calls = calls
        self._feed: ItemFeed | None = feed
        self._is_closed = False
        self._is_awaited = False
        self._results_at_once = 0

    async def __anext__(self) -> T:
        """Return the next result. Raises StopAsyncIteration after the last one.

        If the task is cancelled meanwhile, or an exception is raised, the remaining calls are cancelled.
        """
        if self._is_awaited:
            raise RuntimeError("another task awaits the next result of this amap")
        self._is_awaited = True
        try:
            call = await self._next_call()
            if call is None:
                raise StopAsyncIteration
            value: T = value_of(call)
            return value
        except BaseException:
            self._close()
            raise
        finally:
            self._is_awaited = False

    async def _next_call(self) -> MapCall | None:
        """Return a call that has ended; None if there is none left."""
        running_loop()  # without one, nothing may be submitted
        calls = self._calls
        while not self._is_closed:
            # The next calls are submitted before the wait for a result, so that the slots stay busy.
            if self._feed is not None and not self._feed.fill():
                self._feed = None
            call = calls.ended_call()
            if call is not None:
                self._results_at_once += 1
                if self._results_at_once > TURN:
                    self._results_at_once = 0
                    await asyncio.sleep(0)
                return call
            if not calls.pending and self._feed is None:
                return None
            self._results_at_once = 0
            await calls.wait_for_change()
        return None

    async def aclose(self) -> None:
        """Cancel the remaining calls. There are no more results."""
        self._close()

    def _close(self) -> None:
        self._is_closed = True
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.close()
        self._calls.close()

    def __del__(self) -> None:
        if not self._is_closed:
            self._close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()


class SyncItemFeed:
    """The feed of an `amap` whose items come from iterables."""

    def __init__(self, submitter: object, calls: AwaitedCalls, iterables: Sequence[Iterable[Any]], window: int) -> None:
        self.fill = MapFeed(submitter, calls, ItemBatches(iterables), window).fill

    def close(self) -> None:
        """Take no more items."""


class AsyncItemFeed:
    """The feed of an `amap` with an asynchronous iterable. A task of its own waits for the items.

    Args:
        submitter: kept alive until all calls are submitted: a dropped executor shuts down.
        calls: takes the calls.
        iterables: the iterables, of which some are asynchronous.
        window: maximum number of calls ahead.
    """

    def __init__(
        self,
        submitter: object,
        calls: AwaitedCalls,
        iterables: Sequence[Iterable[Any] | AsyncIterable[Any]],
        window: int,
    ) -> None:
        self._submitter = submitter
        self._calls = calls
        self._iterables = iterables
        self._window = window
        self._has_room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def fill(self) -> bool:
        """Let the task go on if there is room. Returns False if it has submitted the last call."""
        if self._task is None:
            self._task = running_loop().create_task(self._submit_all())
        if len(self._calls.pending) < self._window:
            self._has_room.set()
        return not self._task.done()

    async def _submit_all(self) -> None:
        calls = self._calls
        try:
            iterators = [_iterator(each) for each in self._iterables]
            number = 0
            while True:
                while len(calls.pending) >= self._window:
                    self._has_room.clear()
                    await self._has_room.wait()
                arguments = [await anext(iterator) for iterator in iterators]
                calls.submit([(tuple(arguments), number, 1)])
                number += 1
                calls.changed()
        except StopAsyncIteration:
            return
        except Exception as error:
            calls.fail(error)
        finally:
            running_loop().call_soon(calls.changed)  # when the task is done

    def close(self) -> None:
        """Cancel the task. Any thread may call this."""
        task = self._task
        if task is not None and not task.done():
            with suppress(RuntimeError):  # the loop is closed
                task.get_loop().call_soon_threadsafe(task.cancel)


async def _items_of(iterable: Iterable[Any]) -> AsyncIterator[Any]:
    for value in iterable:
        yield value


def _iterator(iterable: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    return aiter(iterable) if isinstance(iterable, AsyncIterable) else _items_of(iterable)


def map_async(
    make_calls: Callable[[Callable[..., Any], type[AwaitedCalls]], AwaitedCalls],
    fn: Callable[..., Any],
    iterables: Sequence[Iterable[Any] | AsyncIterable[Any]],
    buffersize: int | None,
    *,
    ordered: bool,
) -> AsyncMapResults[Any]:
    """Return the results of an `amap`; see `Submitter.amap`.

    Args:
        make_calls: makes the calls, which are calls of the function that it gets, of the type that it gets.
        fn, iterables, buffersize, ordered: the map.
    """
    check_buffersize(buffersize)
    validation.refuse(fn)
    calls = make_calls(fn, AwaitedCalls if ordered else UnorderedAwaitedCalls)
    window = UNSIZED_WINDOW if buffersize is None else buffersize
    feed: ItemFeed
    if any(isinstance(each, AsyncIterable) for each in iterables):
        feed = AsyncItemFeed(make_calls, calls, iterables, window)
    else:
        feed = SyncItemFeed(make_calls, calls, [iter(each) for each in iterables], window)  # type: ignore[arg-type]
    return AsyncMapResults(calls, feed)
