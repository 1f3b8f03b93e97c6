"""`TaskDriver`: drives the core of calls that share slots. For that core, each of the slots is a runner."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from dragonfly_executor.engine.core_driver import CoreDriver
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.engine.context import CallNotes
    from dragonfly_executor.transport.loop import Loop


class TaskComponents:
    """The parts of `EngineComponents` that a `CoreDriver` uses.

    Attributes:
        loop: the engine's loop.
        action_runner: this object, which has `do`.
        do: the method for each type of action.
        call_notes: note the steps of the calls.
    """

    def __init__(self, loop: Loop, do: dict[type, Callable[[Any], None]], call_notes: list[CallNotes]) -> None:
        self.loop = loop
        self.do = do
        self.call_notes = call_notes

    @property
    def action_runner(self) -> TaskComponents:
        """This object."""
        return self


class TaskDriver(CoreDriver):
    """Feeds the core one event after another: to carry out an action may lead to further events."""

    _is_busy = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._due: deque[Any] = deque()

    def handle(self, event: Any) -> None:
        """Hand the core an event, and carry out the actions, now or after those that are being carried out."""
        self._due.append(event)
        if self._is_busy:
            return
        self._is_busy = True
        try:
            while self._due:
                super().handle(self._due.popleft())
        finally:
            self._is_busy = False
