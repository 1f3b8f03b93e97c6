"""`CoreTimer`: hands the core a tick at each of its deadlines."""

from __future__ import annotations

from collections.abc import Callable

from dragonfly_executor.core.events import Tick
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.core.machine import Machine
    from dragonfly_executor.transport.loop import Loop, Timer


class CoreTimer:
    """The timer of a pool's core. It belongs to the engine thread.

    Args:
        machine: the core.
        loop: the engine's loop.
        handle: hands the core an event.
    """

    def __init__(self, machine: Machine, loop: Loop, handle: Callable[[Tick], object]) -> None:
        self._machine = machine
        self._loop = loop
        self._handle = handle
        self._timer: Timer | None = None
        self._turn_is_due = False

    def arm(self, now: float) -> None:
        """Set the timer for the core's next deadline. A timer that fires too early only costs a tick."""
        deadline = self._machine.deadline()
        if deadline is None or (self._timer is not None and self._timer.when <= deadline):
            return
        if deadline <= now:
            # One event left work over. Links and heartbeats come first: a timer might be due in this pass of the loop.
            if not self._turn_is_due:
                self._turn_is_due = True
                self._loop.call_soon(self._take_turn)
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._tick)

    def _take_turn(self) -> None:
        self._turn_is_due = False
        self._handle(Tick())

    def _tick(self) -> None:
        self._timer = None
        self._handle(Tick())
