"""Reads the items of a method call, and submits them as calls, as far ahead as a window reaches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count, islice
from math import inf
from queue import SimpleQueue

from dragonfly_executor.api.map_items import SLICED, MapItems
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Protocol

    from dragonfly_executor.engine.map_calls import Batch
    from dragonfly_executor.multiprocessing.call_group import CallGroup

    class ItemSource(Protocol):
        """The calls of a method call, some at a time.

        Attributes:
            blocks: whether the next item may have to be waited for.
        """

        blocks: bool

        def take(self, count: int, batch: Batch) -> None:
            """Append the next `count` calls, or the rest, to `batch`. Raises the exceptions of the iterable."""


WINDOW = 1024
"""Maximum number of calls ahead, if the user names none."""
SUBMITTED_AT_ONCE = 64
"""Maximum number of calls that are submitted in one step."""
STEPS = 16
"""Number of steps in which the calls of a window are replaced, so that the feeder does not wake for each of them."""


class SingleItems:
    """The calls of items that are calls of their own."""

    def __init__(self, iterable: Iterable[Any]) -> None:
        self.blocks = type(iterable) not in SLICED
        self._items = iter(iterable)
        self._taken = 0

    def take(self, count: int, batch: Batch) -> None:
        """Append the next `count` calls, or the rest, to `batch`. Raises the exceptions of the iterable."""
        number = self._taken
        for value in islice(self._items, count):
            batch.append(((value,), number, 1))
            number = self._taken = number + 1


class ChunkedItems:
    """The calls of items that run in chunks.

    Args:
        fn: the function of the items.
        iterable: the items.
        size: number of items in a chunk.
        starred: whether an item holds the arguments of its call.
    """

    def __init__(self, fn: Callable[..., Any], iterable: Iterable[Any], size: int, *, starred: bool) -> None:
        self.blocks = type(iterable) not in SLICED
        self._fn = fn
        self._items = MapItems((iterable,))
        self._size = size
        self._is_starred = starred

    def take(self, count: int, batch: Batch) -> None:
        """Append the next `count` calls, or the rest, to `batch`. Raises the exceptions of the iterable."""
        for _ in range(count):
            first = self._items.taken
            columns = self._items.columns(self._size)
            if not columns:
                return
            size = len(columns[0])
            batch.append(
                (self._starred(columns[0], first) if self._is_starred else (self._fn, columns, first), first, size)
            )

    def _starred(self, items: Sequence[Any], first: int) -> tuple[Any, ...]:
        """Return the arguments of `run_chunk` for items that hold the arguments of their calls."""
        lengths = {len(each) if type(each) in (tuple, list) else 0 for each in items}
        if len(lengths) == 1 and 0 not in lengths:
            return self._fn, tuple(zip(*items, strict=True)), first
        fn = self._fn
        # They have no common columns, or are no arguments at all: then their own calls fail.
        return (lambda arguments: fn(*arguments)), (items,), first


class Window:
    """The number of calls that may still be submitted.

    Args:
        size: maximum number of submitted calls whose results were not taken.
    """

    def __init__(self, size: int) -> None:
        self._free: float = size
        self._step = max(1, size // STEPS)
        self._given_back = count(1)
        self._returned: SimpleQueue[float] = SimpleQueue()

    def give_back(self) -> None:
        """Let another call be submitted in place of one. Any thread may call this."""
        if next(self._given_back) % self._step == 0:
            self._returned.put(self._step)

    def open_fully(self) -> None:
        """Let all calls be submitted."""
        self._returned.put(inf)

    def wake(self) -> None:
        """Have a thread that waits look whether it must stop."""
        self._returned.put(0)

    def free(self, *, waits: bool) -> float:
        """Return how many calls may be submitted now. 0, if `waits`, asks the caller to look whether it must stop."""
        if self._free <= 0 and waits:
            self._free += self._returned.get()
        while self._free <= 0 and not self._returned.empty():
            self._free += self._returned.get()
        return self._free

    def take(self, calls: int) -> None:
        """Note that calls were submitted. Only the thread that feeds calls this and `free`."""
        self._free -= calls


class Feeder:
    """Submits the calls of a group.

    Args:
        group: takes the calls.
        items: makes them.
        window: how many may be submitted ahead.
    """

    def __init__(self, group: CallGroup, items: ItemSource, window: Window) -> None:
        self._group = group
        self._items = items
        self._window = window
        # The first calls start while the next ones are encoded. An item that has come does not wait for the next one.
        self._count = 1
        self._most = 1 if items.blocks else SUBMITTED_AT_ONCE

    def run(self) -> None:
        """Submit all calls, on a thread of its own. An error belongs to the group."""
        group = self._group
        try:
            self.fill(waits=True)
        except BaseException as error:  # the iterator is the user's code, and may even call sys.exit()
            group.fail(error)
            group.fed()

    def fill(self, *, waits: bool) -> bool:
        """Submit the calls that the window has room for.

        Args:
            waits: wait for room, until all are submitted or the group is stopped.

        Returns:
            False if there are no more.
        """
        group, window = self._group, self._window
        while not group.is_stopped:
            free = window.free(waits=waits)
            if free <= 0:
                if waits:
                    continue
                return True
            wanted = int(min(self._count, free))
            if not self._submit(wanted):
                break
            window.take(wanted)
            self._count = min(2 * self._count, self._most)
        group.fed()
        return False

    def _submit(self, wanted: int) -> bool:
        """Submit the next calls. Returns False if there are no more."""
        batch: Batch = []
        try:
            self._items.take(wanted, batch)
        except Exception as error:
            self._group.submit(batch)
            self._group.fail(error)
            return False
        self._group.submit(batch)
        return len(batch) == wanted
