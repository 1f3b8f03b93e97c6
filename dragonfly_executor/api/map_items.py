"""The items of a `map`: takes them from the iterables, some at a time."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.serialization.map_chunk import Columns

SLICED = (list, tuple, range)
"""Types whose slices hold the same items as their iterators yield."""


class MapItems:
    """The items that the builtin ``map`` takes from the iterables. They end with the shortest iterable.

    Args:
        iterables: one iterable for each argument of the function.
        keeps_started: if an iterable raises, first return the items that were taken before in the same step.
    """

    def __init__(self, iterables: Sequence[Iterable[Any]], *, keeps_started: bool = False) -> None:
        self._keeps_started = keeps_started
        self._error: Exception | None = None
        self._sequences: Sequence[Any] | None = None
        self._items: Iterator[Any] = iter(())
        self._is_single = len(iterables) == 1
        self.taken = 0
        """Number of items that were taken."""
        if iterables and all(map(_is_sliced, iterables)):
            self._sequences = iterables
        elif self._is_single:
            self._items = iter(iterables[0])
        else:
            self._items = zip(*iterables)  # noqa: B905  # as the builtin map, it ends with the shortest

    @property
    def left(self) -> int | None:
        """Return how many items are left, as far as it is known now; None if it is unknown."""
        return None if self._sequences is None else max(0, min(map(len, self._sequences)) - self.taken)

    def columns(self, size: int) -> Columns:
        """Take the next `size` items, or the rest, and return the values of each argument.

        Returns:
            One sequence for each iterable; nothing if no items are left.
        """
        columns: Columns
        if self._sequences is not None:
            start = self.taken
            # As with an iterator of a list, items that are appended meanwhile count.
            end = min(start + size, *map(len, self._sequences))
            columns = tuple(sequence[start:end] for sequence in self._sequences) if end > start else ()
        else:
            items = self._some(size)
            columns = () if not items else (items,) if self._is_single else tuple(zip(*items, strict=True))
        count = len(columns[0]) if columns else 0
        self.taken += count
        if count < size and self._error is None:
            # Ask no iterator again that has ended.
            self._sequences, self._items = None, iter(())
        return columns

    def _some(self, size: int) -> list[Any]:
        if self._error is not None:
            raise self._error
        items: list[Any] = []
        try:
            # An error leaves the items before it in the list.
            items.extend(islice(self._items, size))
        except Exception as error:
            if not (items and self._keeps_started):
                raise
            self._error = error
        return items


def _is_sliced(iterable: Any) -> bool:
    kind = type(iterable)
    if kind in SLICED:
        return True
    numpy = sys.modules.get("numpy")
    return numpy is not None and kind is numpy.ndarray and iterable.ndim > 0
