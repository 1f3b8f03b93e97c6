"""The tracebacks of calls that have failed lately, and the output of calls that have ended lately."""

from __future__ import annotations

import weakref
from collections import deque

from dragonfly_executor.engine.observing.call_events import failure_kind
from dragonfly_executor.engine.outcome import Outcome
from dragonfly_executor.errors import DragonflyError
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.terminal_text import escape_controls

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from dragonfly_executor.core.calls import Call
    from dragonfly_executor.engine.output.router import CapturedOutput

    Where: TypeAlias = tuple[int | None, int | None, float | None]
    """Runner, slot, and seconds that the function ran."""

MOST_FAILED = 50
"""Number of failed calls that are kept."""
MOST_READ = 50
"""Maximum number of tracebacks that are read in a second. Those of a flood of failures are left out."""
MAX_TEXT = 64 * 1024
"""Maximum number of characters of a traceback or an output. The last ones are kept."""
MOST_OUTPUTS = 30
"""Number of ended calls whose output is kept."""
TOO_MANY = "Too many calls fail at once, so this traceback was not kept."


class FailedCalls:
    """The latest failures and outputs of a pool. It belongs to the engine thread.

    Args:
        captures: whether the pool keeps the output of calls.
    """

    def __init__(self, *, captures: bool) -> None:
        self._captures = captures
        self._failed: deque[dict[str, Any]] = deque(maxlen=MOST_FAILED)
        self._outputs: deque[tuple[int, CapturedOutput | None, weakref.ref[Any]]] = deque(maxlen=MOST_OUTPUTS)
        self._read_in = (0, 0)
        """A second, and how many tracebacks were read in it."""

    def ended(self, call: Call, failure: object | None, where: Where, now: float) -> None:
        """Note the end of a call.

        Args:
            call: the call.
            failure: what it has failed with; None if it has not failed.
            where: where it ran.
            now: Unix seconds.
        """
        future: Any = call.token
        if self._captures and hasattr(future, "captured"):
            # Output may come after the result, and the future keeps it then.
            self._outputs.append((call.id, future.captured, weakref.ref(future)))
        if failure is None:
            return
        runner, slot, seconds = where
        name, text = self._described(failure, now)
        self._failed.append({
            "call": call.id,
            "function": escape_controls(call.name),
            "attempt": call.attempt,
            "state": "failed",
            "runner": runner,
            "slot": slot,
            "seconds": seconds,
            "time": now,
            "kind": "raised" if isinstance(failure, Outcome) else failure_kind(failure),
            "error_type": escape_controls(name),
            "traceback": escape_controls(text[-MAX_TEXT:]),
        })  # fmt: skip

    def _described(self, failure: object, now: float) -> tuple[str, str]:
        """Return the name of an error's type, and its text. No code of the user runs."""
        if not isinstance(failure, Outcome):
            text = f": {failure}" if isinstance(failure, DragonflyError) else ""
            return type(failure).__name__, f"{type(failure).__name__}{text}"
        second, count = self._read_in
        count = count + 1 if second == int(now) else 1
        self._read_in = int(now), count
        if count > MOST_READ:
            return "", TOO_MANY
        return failure.described().removeprefix("raised "), failure.error_text()

    def report(self) -> list[dict[str, Any]]:
        """Return the latest failures without their tracebacks, the last one first."""
        return [{key: each[key] for key in each if key != "traceback"} for each in reversed(self._failed)]

    def find(self, call_id: int) -> dict[str, Any] | None:
        """Return what is kept of an ended call; None if nothing is."""
        failed = next((each for each in reversed(self._failed) if each["call"] == call_id), None)
        output = self._output(call_id)
        if failed is None and output is None:
            return None
        found = dict(failed or {"call": call_id, "state": "ended"})
        return found if output is None else {**found, "output": output}

    def _output(self, call_id: int) -> str | None:
        for number, captured, future in reversed(self._outputs):
            if number == call_id:
                found = captured or getattr(future(), "captured", None)
                return "" if found is None else str(found.text()[-MAX_TEXT:])
        return None
