"""Runs a chunk: one call for many items of a `map`. Runs on a slot."""

from __future__ import annotations

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeVar

    T = TypeVar("T")

_SHOWN = 120
"""Characters of an item that a note shows."""


def run_chunk(fn: Callable[..., T], chunk: Sequence[tuple[Any, ...]], first: int) -> list[T]:
    """Call `fn` with the arguments of each item. An exception gets a note that names the item.

    Args:
        fn: the map's function.
        chunk: the arguments of each item.
        first: the number of the chunk's first item in its map, counted from 0.

    Returns:
        The value of each item, in order.
    """
    values: list[T] = []
    try:
        for arguments in chunk:
            values.append(fn(*arguments))  # noqa: PERF401  # len(values) tells which item failed
    except BaseException as error:
        place = len(values)
        add_note(error, f"raised for {item(first + place)}: {_shown(chunk[place])}")
        raise
    return values


def item(number: int, last: int | None = None) -> str:
    """Return the words for an item of a map, or for one of the items from `number` to `last`."""
    which = f"item {number}" if last is None or last == number else f"one of the items {number} to {last}"
    return f"{which} of the map (the first is item 0)"


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
