"""Calls whose end is decided, and which are settled in slices."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from dragonfly_executor.core.calls import SETTLED, Call


class Backlog:
    """What is still to be settled of the calls that one event has ended: a shutdown, a broken pool, a budget.

    There may be a million of them. So each tick settles some, and other events come in between. The calls are settled
    in the order in which they were added; those that were settled in another way meanwhile are passed over.
    """

    __slots__ = ("entries",)

    def __init__(self) -> None:
        self.entries: deque[tuple[Iterator[Call], Callable[[Call], object]]] = deque()
        """What is left. An entry may have come to its end; then that shows at the next event."""

    def add(self, calls: Iterator[Call], settle: Callable[[Call], object]) -> None:
        """Have these calls settled, by this function, after those that were added before."""
        self.entries.append((calls, settle))

    def work(self, at_most: int) -> None:
        """Settle the next calls; `at_most` limits how many."""
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
