"""Keeps the times at which the runners of a pool have booted, come up and ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.terminal_text import escape_controls

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.core.stats import RunnerStats

MOST = 400
"""Number of runners that are kept. Those that have ended first are forgotten first."""


class RunnerHistory:
    """The times of a pool's runners in Unix seconds. It belongs to the engine thread.

    Args:
        runners: those that are there already.
        clock: Unix seconds.
    """

    def __init__(self, runners: Iterable[RunnerStats], clock: Callable[[], float]) -> None:
        self._runners: dict[int, dict[str, Any]] = {}
        self._clock, now = clock, clock()
        for each in runners:
            row = self._row(each.id)
            row["boot"] = now - each.machine_seconds
            if each.state != "booting":
                # When it came up, is not known any more.
                row["up"] = row["boot"]

    def note(self, what: str, runner_id: int, text: str) -> None:
        """Record an event of a runner, as `Pool.on_event` gets it."""
        row, now = self._row(runner_id), self._clock()
        if what == "boot":
            row["boot"] = now
        elif what == "up":
            row["up"] = now
        elif what in ("down", "boot failed", "boot given up"):
            row["down"] = now
            row["failed"] = what == "boot failed"
        row["text"] = escape_controls(text)

    def _row(self, runner_id: int) -> dict[str, Any]:
        row = self._runners.get(runner_id)
        if row is None:
            if len(self._runners) >= MOST:
                ended = next((number for number, each in self._runners.items() if each["down"] is not None), None)
                del self._runners[next(iter(self._runners)) if ended is None else ended]
            row = {"id": runner_id, "boot": None, "up": None, "down": None, "failed": False, "text": ""}
            self._runners[runner_id] = row
        return row

    def report(self) -> list[dict[str, Any]]:
        """Return a JSON object for each runner."""
        return [dict(row) for row in self._runners.values()]
