"""Runs calls that are more than one call of the user's function: chunks of a `map`, and streams. Runs on a slot."""

from __future__ import annotations

from operator import length_hint
from time import perf_counter
from types import BuiltinFunctionType, FunctionType

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, TypeAlias, TypeVar

    from dragonfly_executor.serialization.stream_run import ItemSink

    T = TypeVar("T")
    Columns: TypeAlias = tuple[Sequence[Any], ...]
    """The arguments of a chunk's items, one column for each iterable. All columns have the same length."""

OVERDUE = 0.05
"""Seconds after which a chunk of automatic size returns the items that it has not begun."""
_COROUTINE = 0x80
"""The flag of the code of an ``async def``, as in `inspect`, which is slow to import."""
_ITEM = "item of a map: "
_SHOWN = 120
"""Characters of an item that a note shows."""


def run_chunk(fn: Callable[..., T], columns: Columns, first: int) -> list[T]:
    """Call `fn` with the arguments of each item. An exception gets a note that names the item.

    Args:
        fn: the map's function.
        columns: the arguments of each item.
        first: the number of the chunk's first item in its map, counted from 0.

    Returns:
        The value of each item, in order.
    """
    iterators = [iter(column) for column in columns]
    try:
        # The builtin `map` is faster for several columns, but takes a StopIteration that `fn` raises for its own end.
        if len(iterators) == 1:
            return [fn(one) for one in iterators[0]]
        if len(iterators) == 2:
            return [fn(one, two) for one, two in zip(*iterators, strict=True)]
        return [fn(*arguments) for arguments in zip(*iterators, strict=True)]
    except BaseException as error:
        # The first iterator has just yielded the argument of the item that failed.
        place = len(columns[0]) - length_hint(iterators[0]) - 1
        add_note(error, f"raised for {item(first + place)}: {_shown(tuple(column[place] for column in columns))}")
        raise


class ItemOutcomes:
    """The outcomes of the first items of a chunk.

    Attributes:
        values: the value of each item; None for an item that failed.
        failures: for each item that failed, its place in the chunk and its exception.
        seconds: how long the items took together.
    """

    def __init__(self, values: list[Any], failures: list[tuple[int, BaseException]], seconds: float) -> None:
        self.values = values
        self.failures = failures
        self.seconds = seconds


def run_items(
    fn: Callable[..., object], columns: Columns, first: int, limit: float = OVERDUE, *, is_here: Callable[[], bool]
) -> ItemOutcomes:
    """Call `fn` with the arguments of each item, as if each item was a call of its own.

    An exception ends its own item alone. After `limit` seconds the items that were not begun are left out: the items
    are longer than was expected, so other slots run them meanwhile.

    Args:
        fn, columns, first: see `run_chunk`.
        limit: seconds.
        is_here: returns False in a child process that an item has forked.
    """
    values: list[Any] = []
    failures: list[tuple[int, BaseException]] = []
    is_single = len(columns) == 1
    call: Callable[[Any], object] = fn if is_single else lambda arguments: fn(*arguments)
    now = began = perf_counter()
    for one in columns[0] if is_single else zip(*columns, strict=True):
        try:
            values.append(call(one))
        except BaseException as error:
            add_note(error, f"raised for {item(first + len(values))}: {_shown((one,) if is_single else one)}")
            failures.append((len(values), error))
            values.append(None)
        now = perf_counter()
        if now - began > limit or not is_here():
            break
    return ItemOutcomes(values, failures, now - began)


def run_stream(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], _window: int, *, sink: ItemSink
) -> Any:
    """Run the call of a stream; see `stream_run.send_items`.

    Args:
        fn, args, kwargs: the stream's function and its arguments.
        _window: number of items that may be ahead of the caller. `perform` makes the sink with it.
        sink: sends the items.
    """
    # Imported for the first stream: few programs have one.
    from dragonfly_executor.serialization.stream_run import send_items

    return send_items(fn, args, kwargs, sink)


def plain(fn: Callable[..., Any], run: Callable[[Any], Any]) -> Callable[..., Any]:
    """Return `fn`, or, if it is an ``async def``, a function that has `run` run its coroutine and returns the value."""
    kind = type(fn)
    if kind is BuiltinFunctionType:
        return fn
    if kind is FunctionType:
        is_async = bool(fn.__code__.co_flags & _COROUTINE)
    else:
        # Imported for the first map of an object that is called like a function.
        from dragonfly_executor.util import validation

        is_async = validation.is_async(fn)
    return (lambda *arguments: run(fn(*arguments))) if is_async else fn


def item(number: int, last: int | None = None) -> str:
    """Return the words for an item of a map, or for one of the items from `number` to `last`."""
    which = f"item {number}" if last is None or last == number else f"one of the items {number} to {last}"
    return f"{which} of the map (the first is item 0)"


def shown_item(arguments: tuple[Any, ...]) -> str:
    """Return the note that a slot adds to the exception of an item. Only the parent knows the item's number."""
    return f"{_ITEM}{_shown(arguments)}"


def name_items(error: BaseException, first: int, last: int) -> None:
    """Add the numbers of the item, or of the items, to an exception. A slot's note becomes part of that note."""
    shown = ""
    notes = getattr(error, "__notes__", None)
    if type(notes) is list and notes and type(notes[-1]) is str and notes[-1].startswith(_ITEM):
        shown = f": {notes.pop()[len(_ITEM) :]}"
    add_note(error, f"raised for {item(first, last)}{shown}")


def add_note(error: BaseException, text: str) -> None:
    """Add a note to an exception, bypassing overrides in its class. Never raises."""
    try:
        BaseException.add_note(error, text)
    except Exception:  # its __notes__ is not a list, or is a property
        return


def _shown(arguments: tuple[Any, ...]) -> str:
    """Return the arguments of an item as shortened text. Never raises, although ``repr`` runs user code."""
    try:
        from reprlib import Repr

        shown = Repr()
        shown.maxstring = shown.maxother = _SHOWN // 2
        text = shown.repr(arguments[0] if len(arguments) == 1 else arguments)
        return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
    except Exception as failure:
        return f"<repr() of it raised {type(failure).__name__}>"
