"""`CoreDriver`: feeds the core events, and carries out its actions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dragonfly_executor.core.actions import Settle
from dragonfly_executor.engine.action_runner import settle
from dragonfly_executor.engine.core_timer import CoreTimer
from dragonfly_executor.engine.fork_guard import ForkGuard
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.partner_processor import PartnerProcessor
from dragonfly_executor.util.usable_cpus import usable_cpus

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.core.calls import Call
    from dragonfly_executor.core.machine import Machine
    from dragonfly_executor.engine.context import CallNotes, DriverComponents
    from dragonfly_executor.engine.core_observers import CoreObservers
    from dragonfly_executor.engine.loop_waker import LoopWakers
    from dragonfly_executor.transport.loop import Loop


class CoreDriver:
    """The driver of a pool's core. It belongs to the engine thread.

    Args:
        machine: the core.
        observers: the objects that read the core after each event.
        wakers: resume the tasks whose calls are settled.
        is_open: returns whether the pool still takes calls.

    Attributes:
        caller: the processor of the thread that submits.
        untold: the calls that the core has removed from its state, and that may not have their outcomes, because the
            engine has failed.
    """

    def __init__(
        self, machine: Machine, observers: CoreObservers, wakers: LoopWakers, is_open: Callable[[], bool]
    ) -> None:
        self._machine = machine
        self._core_observers, self._observers = observers, observers.present
        self._wakers, self._due_wakers = wakers, wakers.due
        self._is_open = is_open
        self._may_linger = usable_cpus() > 1
        self.caller = PartnerProcessor(self._may_linger)
        self._fork_guard = ForkGuard.of_this_process()
        self.untold: list[Call] = []
        self._loop: Loop
        self._do: dict[type, Callable[[Any], None]]
        self._call_notes: Sequence[CallNotes] = ()
        self._arm_timer: Callable[[float], None]

    def begin(self, components: DriverComponents) -> None:
        """Use these components from now on, before the first event."""
        self._loop, self._do = components.loop, components.action_runner.do
        self._call_notes = components.call_notes
        self._arm_timer = CoreTimer(self._machine, components.loop, self.handle).arm

    def handle(self, event: Any) -> None:
        """Hand the core an event, and carry out the actions."""
        now = self._loop.time()
        if now >= self.caller.due and self._fork_guard.delay():
            # First: the review releases the interpreter lock, and after the event this method holds results that their
            # callers have taken. With one call at a time, the thread that submits waits for this one.
            try:
                self.caller.review(now, in_turn=self._loop.expects_news)
            finally:
                self._fork_guard.end_delay()
        do, settled = self._do, None
        decided = self._machine.handle(event, now)
        if self._call_notes:
            for notes in self._call_notes:
                notes.note(event, decided, now)
        try:
            for action in decided:
                if type(action) is Settle:
                    settled = action
                else:
                    do[type(action)](action)
            self._arm_timer(now)
            # With one call at a time, a caller waits for each. With more calls, spinning takes processors from the
            # slots, and the interpreter lock from the callers.
            self._loop.expects_news = self._may_linger and self._machine.in_flight == 1
            # Last, because a thread that waits for a result can only go on when this thread releases the interpreter
            # lock.
            if settled is not None:
                settle(settled)
                if self._due_wakers:
                    self._wakers.flush()
        except BaseException:
            # The core has removed these calls from its state, so only this list has them.
            for action in decided:
                if type(action) is Settle:
                    self.untold += [call for call, _ in action.outcomes]
            raise
        if self._observers:
            self.tell_observers()

    def tell_observers(self) -> None:
        """Run the observers on the core."""
        self._core_observers.review(self._machine, is_open=self._is_open())
        self._wakers.flush()
