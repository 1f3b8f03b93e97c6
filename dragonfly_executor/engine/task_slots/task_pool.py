"""`TaskPool`: slots that several calls share. It belongs to the engine thread.

For the pool's core, each of the slots is one call, which runs while there are calls for it. A core of its own decides
about the calls in the slots. For that core, each of the slots is a runner.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from dragonfly_executor.core import actions, events
from dragonfly_executor.core.actions import CANCELLED
from dragonfly_executor.core.calls import Call, CallLimits
from dragonfly_executor.core.machine import Machine, PoolLimits
from dragonfly_executor.core.shutdown_mode import ShutdownMode
from dragonfly_executor.engine.action_runner import fail_each
from dragonfly_executor.engine.outcome import Outcome
from dragonfly_executor.engine.placed.channel_reference import ChannelReference
from dragonfly_executor.engine.task_slots.served_slots import ServedSlots
from dragonfly_executor.engine.task_slots.slot_yield import SlotYield
from dragonfly_executor.engine.task_slots.task_driver import TaskComponents, TaskDriver
from dragonfly_executor.engine.task_slots.task_slot import TaskSlot
from dragonfly_executor.errors import CallTimeoutError
from dragonfly_executor.serialization.placed_run import run_tasks
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.engine.context import CallNotes, TaskContext
    from dragonfly_executor.engine.core_observers import CoreObservers
    from dragonfly_executor.engine.submit_queue import SubmitQueue
    from dragonfly_executor.engine.task_slots.shared_slot_call import SharedSlotCall
    from dragonfly_executor.transport.loop import Loop

IDLE = 0.25
"""Seconds for which a slot without calls waits for the next one. Its runner is idle only after that."""
MOST_SLOTS = 100_000
"""Maximum number of slots. The pool's own limits decide how many of them run."""


class TaskPool:
    """The calls that share slots under the same conditions, and these slots.

    Args:
        engine: the engine of the pool.
        concurrency: number of calls in a slot.
        limits: what a slot requires of its runner, and its priority.

    Attributes:
        machine: the core of the calls.
        payload, slot_limits: those of the call that a slot is.
        slots: the slots that are there or wait, by number.
        ended: the slots that were calls of the pool.
    """

    def __init__(self, engine: TaskContext, concurrency: int, limits: CallLimits) -> None:
        self._engine = engine
        self.slot_limits = limits
        self.machine = Machine(
            PoolLimits(
                max=MOST_SLOTS,
                slots_hint=concurrency,
                idle_after=IDLE,
                max_boot_failures=1,
                max_concurrent_boots=MOST_SLOTS,
                queued_idle_after=0.0,
                packs=True,
                sends_ahead=False,
            )
        )
        self._concurrency = concurrency
        self.slots: dict[int, TaskSlot] = {}
        self._opened: dict[int, TaskSlot] = {}
        self._by_call: dict[int, TaskSlot] = {}
        self._starting: list[SharedSlotCall] = []
        self._cancelling: list[SharedSlotCall] = []
        self._keeps_open: Call | None = None
        """Keeps the pool open during a shutdown, as long as there are calls here."""
        self._driver: TaskDriver
        self.ended = EndedSlots()
        self._has_failed = False
        self._served = ServedSlots(self._by_call.get)
        # It lives as long as this object: slots refer to it by its number.
        self._entry = engine.codec.objects.add("PlacedWorker", self, self._served)
        given = ChannelReference(self._entry.number), concurrency
        self.payload = engine.payloads.snapshot(engine.codec.encode_call(run_tasks, given, {}, ()))

    def begin(self, observers: CoreObservers, notes: list[CallNotes], is_open: Callable[[], bool]) -> None:
        """Take part in the pool, before the first call.

        Args:
            observers: look at the core of the calls.
            notes: note the steps of the calls.
            is_open: returns whether the pool takes calls.
        """
        engine = self._engine
        self._driver = TaskDriver(self.machine, observers, engine.wakers, is_open)
        do: dict[type, Callable[[Any], None]] = {
            actions.Send: self._send,
            actions.Kill: self._kill,
            actions.Boot: self._boot,
            actions.Stop: self._stop,
            actions.Closed: self._closed,
            actions.Warn: lambda _: None,
        }
        self._driver.begin(TaskComponents(engine.loop, do, [RunnerNames(self.runner_of), *notes]))
        engine.core_observers.present.append(SlotYield(self, engine.slots_that_wait))

    @property
    def loop(self) -> Loop:
        """The loop of the engine thread."""
        return self._engine.loop

    @property
    def open_slots(self) -> Iterable[TaskSlot]:
        """The slots that take calls, or have calls."""
        return self._opened.values()

    @property
    def waiting_slots(self) -> int:
        """The number of slots that wait for a slot of the pool."""
        return len(self.slots) - len(self._opened)

    def runner_of(self, number: int | None) -> int | None:
        """Return the number of the pool's runner that has a slot; None if there is none."""
        slot = None if number is None else self.slots.get(number)
        return None if slot is None else slot.runner_id

    def handle(self, event: Any) -> None:
        """Hand the core of the calls an event, and carry out the actions."""
        if not self._has_failed:
            self._driver.handle(event)

    def find(self, call_id: int) -> Call | None:
        """Return the call with this id; None if it is settled or unknown."""
        return self.machine.find(call_id)

    # -- what the core decides -----------------------------------------------------------------------------------------

    def _send(self, action: actions.Send) -> None:
        slot = self.slots[action.runner_id]
        begun = [(call.id, call.attempt) for call in action.calls if slot.send(call)]
        if begun:
            self.handle(events.CallsStarted(slot.number, begun))

    def _kill(self, action: actions.Kill) -> None:
        slot = self.slots.get(action.runner_id)
        if slot is not None:
            slot.kill(action.call)

    def _boot(self, action: actions.Boot) -> None:
        self.slots[action.runner_id] = TaskSlot(self._engine, self, action.runner_id)
        # So that the core gives it up when no call needs it any more.
        self.handle(events.BootQueued(action.runner_id))

    def _stop(self, action: actions.Stop) -> None:
        slot = self.slots.get(action.runner_id)
        if slot is not None:
            slot.stop(at_once=not slot.is_idle)

    def _closed(self, _action: actions.Closed) -> None:
        if self._keeps_open is not None:
            call_id = self._keeps_open.id
            self.loop.call_soon(lambda: self._engine.handle(events.ArgumentsFailed(call_id, CANCELLED)))

    # -- the slots -----------------------------------------------------------------------------------------------------

    def submit_slot(self, slot: TaskSlot, before: int | None) -> None:
        """Submit the call that a slot is, in a moment, with others. `before`: the id of its call before that."""
        self._flush_soon()
        self._by_call.pop(before, None)  # type: ignore[arg-type]
        self._by_call[slot.call.id] = slot
        self._starting.append(slot.call)

    def cancel_slot(self, call: SharedSlotCall) -> None:
        """Cancel the call that a slot is, in a moment, with others."""
        self._flush_soon()
        self._cancelling.append(call)

    def _flush_soon(self) -> None:
        # Not at once: the pool's core may be handling an event.
        if not self._starting and not self._cancelling:
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        starting, cancelling = self._starting, self._cancelling
        self._starting, self._cancelling = [], []
        if starting:
            # As child calls, which are accepted while the pool shuts down.
            self._engine.handle(events.ChildrenSubmitted(starting))
        if cancelling:
            self._engine.handle(events.CancelRequested([call.id for call in cancelling]))

    def slot_opened(self, slot: TaskSlot) -> None:
        """Use a slot from now on."""
        self._opened[slot.number] = slot
        self.handle(events.BootSucceeded(slot.number, self._concurrency))

    def slot_is_gone(self, slot: TaskSlot) -> None:
        """Forget a slot."""
        self.slots.pop(slot.number, None)
        self._opened.pop(slot.number, None)
        self._by_call.pop(slot.call.id, None)
        self._served.forget(slot)

    # -- the end -------------------------------------------------------------------------------------------------------

    def shut_down(self, mode: ShutdownMode) -> None:
        """End as the pool does. All calls that were accepted are here."""
        if mode is ShutdownMode.DRAIN and self._keeps_open is None:
            self._keeps_open = OpenUntilDrained(next(self._engine.ids), b"", None, CallLimits())
            self._keeps_open.wait_for_arguments()
            self._engine.handle(events.Submitted((self._keeps_open,)))
        elif mode is ShutdownMode.CANCEL_QUEUED:
            # Calls for slots that wait themselves do not run.
            self.handle(events.Resized(0, len(self._opened)))
        self.handle(events.ShutdownRequested(mode))

    def fail(self, error: Exception, queue: SubmitQueue, taken: Iterable[Call]) -> None:
        """Fail all calls, because the engine has failed."""
        self._has_failed = True
        left = deque((*taken, *self.machine.unsettled(), *self._driver.untold))
        queue.take(left)
        fail_each(left, error)


class EndedSlots:
    """The numbers of slots that have ended, in the words in which the pool counts calls.

    Attributes:
        done, cancelled, failed: their numbers.
    """

    def __init__(self) -> None:
        self.done = self.cancelled = self.failed = 0

    def add(self, outcome: object) -> None:
        """Count a slot with this outcome."""
        if isinstance(outcome, Outcome):
            self.done += 1
        elif outcome is CANCELLED:
            self.cancelled += 1
        else:
            self.failed += 1


class OpenUntilDrained(Call):
    """A call of the pool that waits until the calls here have ended, so that the pool does not end before them."""

    __slots__ = ()
    is_hidden = True


class RunnerNames:
    """Puts the pool's runners into errors that the core of the calls has made. For it, a slot is a runner.

    Args:
        runner_of: returns the number of the pool's runner that has a slot.
    """

    def __init__(self, runner_of: Callable[[int | None], int | None]) -> None:
        self._runner_of = runner_of

    def note(self, event: object, decided: Sequence[object], now: float) -> None:
        """See `CallNotes`."""
        for action in decided:
            if isinstance(action, actions.Settle):
                for call, outcome in action.outcomes:
                    if type(outcome) is CallTimeoutError and call.runner is not None:
                        runner = self._runner_of(call.runner)
                        text = str(outcome).replace(f"on runner {call.runner}", f"on runner {runner}")
                        outcome.args = (text, *outcome.args[1:])
