"""Where callers leave calls for the engine."""

from __future__ import annotations

from collections import deque

from dragonfly_executor.core.call_table import Call


class Intake(deque[Call]):
    """Calls on their way to the engine, in the order in which they came.

    Each is there or not: it is added in one step, and taken out in one, by the engine or by whoever has added it.
    """

    def withdraw(self, call: Call) -> bool:
        """Take this call out again; False if the engine has taken it, or it was never there."""
        try:
            self.remove(call)
        except ValueError:
            return False
        return True

    def take(self, calls: list[Call] | deque[Call]) -> None:
        """Take out all that there are, and add them to these."""
        while self:
            calls.append(self.popleft())
