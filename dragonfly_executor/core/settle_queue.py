"""Calls whose end is decided, to be settled in slices."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from dragonfly_executor.core.calls import SETTLED, Call


class SettleQueue:
    """The unsettled rest of the calls that one event has ended: a shutdown, a broken pool, a budget.

    There may be a million of them. So each tick settles some, and other events come in between. Calls are settled
    in the order in which they were added. A call that was settled in another way meanwhile is skipped.
    """

    __slots__ = ("entries",)

    def __init__(self) -> None:
        self.entries: deque[tuple[Iterator[Call], Callable[[Call], object]]] = deque()
        """The remaining iterators of calls, with their functions. The next `work` removes an exhausted iterator."""

    def add(self, calls: Iterator[Call], settle: Callable[[Call], object]) -> None:
        """Queue calls to be settled by `settle`, after the earlier ones."""
        self.entries.append((calls, settle))

    def work(self, at_most: int) -> None:
        """Settle the next calls, at most `at_most`."""
        entries = self.entries
        while entries:
            calls, settle = entries[0]
            for call in calls:
                if call.state is not SETTLED:
                    settle(call)
                at_most -= 1
                if at_most <= 0:
                    return
            entries.popleft()
