"""Runs the call of a stream: its function's items leave the slot while the function runs. Runs on a slot."""

from __future__ import annotations

from dragonfly_executor.serialization.call_setting import CallSetting
from dragonfly_executor.serialization.context_call import ContextCall, in_context
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
    from typing import Any


class ItemSink(Protocol):
    """The way of one stream's items to the parent. Whatever takes an item waits while the parent's window is full."""

    def send(self, items: Iterator[Any]) -> None:
        """Send all items, or only the ones that the parent wants. Returns once all of them have left."""

    async def send_async(self, items: AsyncIterator[Any]) -> None:
        """Do the same with an asynchronous iterator, without blocking the event loop while the window is full."""


def send_items(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], sink: ItemSink) -> Any:
    """Call `fn`, and send the items of the iterator that it returns.

    Args:
        fn, args, kwargs: the stream's function and its arguments.
        sink: sends the items.

    Returns:
        The value that a generator returns, or a coroutine, for an asynchronous iterator.

    Raises:
        TypeError: `fn` returns nothing that can be iterated over.
    """
    if isinstance(fn, CallSetting):
        # The function runs when its items are taken, so the setting holds until the last one is.
        inner = fn.__wrapped__
        return fn.hold(lambda: send_items(inner, args, kwargs, sink))
    if isinstance(fn, ContextCall):
        function = fn.func
        return in_context(fn.headers, lambda: send_items(function, args, kwargs, sink))
    made = fn(*args, **kwargs)
    if hasattr(type(made), "__aiter__"):
        return _run_async(made.__aiter__(), sink)
    try:
        iterator = iter(made)
    except TypeError:
        raise TypeError(
            f"{getattr(fn, '__qualname__', type(fn).__qualname__)}() returned {type(made).__qualname__}, and a stream "
            "needs a generator or another iterable: submit() a function that returns its value at once"
        ) from None
    return _run(iterator, sink)


def _run(iterator: Iterator[Any], sink: ItemSink) -> Any:
    value = None

    def items() -> Generator[Any, None, None]:
        nonlocal value
        # mypy: an iterator that is no generator has no value.
        value = yield from iterator  # type: ignore[func-returns-value]

    each = items()
    try:
        sink.send(each)
    finally:
        # Closes the iterator as well, so that the ``finally`` blocks of a generator run here and now.
        each.close()
    return value


async def _run_async(iterator: AsyncIterator[Any], sink: ItemSink) -> None:
    try:
        await sink.send_async(iterator)
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()
