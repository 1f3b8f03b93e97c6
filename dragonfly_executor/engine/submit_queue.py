"""A queue of calls from the callers to the engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from dragonfly_executor.core.call_table import Call


class SubmitQueue(deque[Sequence[Call]]):
    """A queue of calls to the engine, in the order of their submits. An entry is all calls of one submit.

    An entry is added in one step, and removed in one step, by the engine or by the thread that has added it. So the
    calls of one submit are accepted together or not at all.
    """

    def withdraw(self, calls: Sequence[Call]) -> bool:
        """Remove this entry. Returns False if the engine has taken it, or it was never added."""
        try:
            self.remove(calls)
        except ValueError:
            return False
        return True

    def take(self, calls: list[Call] | deque[Call], at_most: int = -1) -> None:
        """Remove all entries, or the first `at_most`, and append their calls to `calls`."""
        try:
            while self and at_most:
                at_most -= 1
                calls.extend(self.popleft())
        except IndexError:
            # Without the GIL, a thread may withdraw the last entry between the look and the removal.
            pass
