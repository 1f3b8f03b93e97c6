"""`TaskCallEvents`: tells a pool's observers of the calls that share slots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.core.machine import Machine
    from dragonfly_executor.engine.observing.call_events import CallEvents


class TaskCallEvents:
    """Notes the steps of these calls. For their core a slot is a runner, so the pool's runner takes its place.

    Args:
        events: the notes of the pool's calls.
        machine: the core of the calls.
        runner_of: returns the number of the pool's runner that has a slot.
    """

    def __init__(self, events: CallEvents, machine: Machine, runner_of: Callable[[int | None], int | None]) -> None:
        self._events = events
        self._machine = machine
        self._runner_of = runner_of

    def note(self, event: object, decided: Sequence[object], now: float) -> None:
        """See `CallNotes`."""
        notes = self._events.notes_of(self._machine, event, decided, now)
        if notes:
            self._events.hand_over([(*note[:5], self._on_runner(note[5])) for note in notes])

    def _on_runner(self, more: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**more, "runner_id": self._runner_of(more["runner_id"])} if "runner_id" in more else more
