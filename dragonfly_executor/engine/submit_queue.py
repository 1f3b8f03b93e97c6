"""A queue of calls from the callers to the engine."""

from __future__ import annotations

from collections import deque

from dragonfly_executor.core.call_table import Call


class SubmitQueue(deque[Call]):
    """A queue of calls to the engine, in the order of their submits.

    A call is added in one step, and removed in one step, by the engine or by the thread that has added it.
    """

    def withdraw(self, call: Call) -> bool:
        """Remove this call. Returns False if the engine has taken it, or it was never added."""
        try:
            self.remove(call)
        except ValueError:
            return False
        return True

    def take(self, calls: list[Call] | deque[Call]) -> None:
        """Remove all calls, and append them to `calls`."""
        while self:
            calls.append(self.popleft())
