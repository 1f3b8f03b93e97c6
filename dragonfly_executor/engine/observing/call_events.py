"""Makes events of the steps of calls, for the observers of a pool.

The engine thread only notes what has happened. The callback thread makes mappings of the notes, and calls the
observers. A pool without observers has no `CallEvents`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from time import time

from dragonfly_executor import errors
from dragonfly_executor.core import actions, events
from dragonfly_executor.core.actions import CANCELLED
from dragonfly_executor.engine.outcome import Outcome
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from dragonfly_executor.core.calls import Call, Payload
    from dragonfly_executor.core.machine import Machine
    from dragonfly_executor.engine.worker_threads import WorkerThreads

    Observer: TypeAlias = Callable[[Mapping[str, Any]], object]
    Note: TypeAlias = tuple[str, int, int, str, float, Mapping[str, Any]]
    """Event, call, attempt, function, monotonic seconds, and further keys."""

MOST_WAITING = 100_000
"""Maximum number of events that wait for the callback thread. Beyond it events are dropped and counted."""


class CallEvents:
    """The notes of a pool's engine about its calls.

    Args:
        name: the pool's name.
        machine: finds the call of a start.
        workers: the callback thread.
        observers: called with each event, on that thread.
        failed: gets an exception of an observer.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        machine: Machine,
        workers: WorkerThreads,
        observers: Sequence[Observer],
        failed: Callable[[BaseException], None],
        clock: Callable[[], float],
    ) -> None:
        self._common = {"name": name, "pid": os.getpid()}
        self._machine = machine
        self._workers = workers
        self._observers = tuple(observers)
        self._failed = failed
        self._offset = time() - clock()
        # Each thread changes only its own count.
        self._noted = self._told = 0
        self._dropped = self._reported = 0

    # -- on the engine thread ------------------------------------------------------------------------------------------

    def note(self, event: object, decided: Sequence[object], now: float) -> None:
        """Note what an event of the core and the actions that it led to mean for calls."""
        notes = self.notes_of(self._machine, event, decided, now)
        if notes:
            self.hand_over(notes)

    @staticmethod
    def notes_of(machine: Machine, event: object, decided: Sequence[object], now: float) -> list[Note]:
        """Return what an event of this core and the actions that it led to mean for calls."""
        notes: list[Note] = []
        costs: dict[int, float] = {}
        if isinstance(event, (events.Submitted, events.ChildrenSubmitted)):
            notes += [
                ("call submitted", call.id, 1, call.name, now, {"argument_bytes": _size(call.payload)})
                for call in event.calls
                if not call.is_hidden
            ]
        elif isinstance(event, events.CallsStarted):
            notes += _started(machine, event, now)
        elif isinstance(event, events.ResultsArrived):
            costs = {call_id: cost for call_id, _, cost, _, _ in event.results}
        for action in decided:
            if isinstance(action, actions.Send):
                runner = {"runner_id": action.runner_id}
                notes += [
                    ("call sent", call.id, call.attempt, call.name, now, runner)
                    for call in action.calls
                    if not call.is_hidden
                ]
            elif isinstance(action, actions.Settle):
                notes += [
                    _ended(call, outcome, costs.get(call.id), now)
                    for call, outcome in action.outcomes
                    if not call.is_hidden
                ]
        return notes

    def hand_over(self, notes: list[Note]) -> None:
        """Have the observers called with these notes, on the callback thread."""
        if self._noted - self._told > MOST_WAITING:
            self._dropped += len(notes)
            return
        self._noted += len(notes)
        self._workers.run(self._tell, notes)

    # -- on the callback thread ----------------------------------------------------------------------------------------

    def _tell(self, notes: Sequence[Note]) -> None:
        dropped = self._dropped
        if dropped > self._reported:
            lost, self._reported = dropped - self._reported, dropped
            self.tell({"event": "events dropped", "time": time(), **self._common, "count": lost})
        for what, call_id, attempt, function, now, more in notes:
            event = {
                "event": what,
                "time": self._offset + now,
                **self._common,
                "call_id": call_id,
                "attempt": attempt,
                "function": function,
                **more,
            }
            error = event.get("error")
            if isinstance(error, Outcome):
                event["error"] = error.described().removeprefix("raised ")
            self.tell(event)
            self._told += 1

    def tell(self, event: Mapping[str, Any]) -> None:
        """Call each observer with an event, on the callback thread. If one raises, the others are still called."""
        for observer in self._observers:
            try:
                observer(event)
            except Exception as error:
                self._failed(error)


def _started(machine: Machine, event: events.CallsStarted, now: float) -> list[Note]:
    notes: list[Note] = []
    for place, (call_id, attempt) in enumerate(event.refs):
        call = machine.find(call_id)
        if call is not None and call.attempt == attempt and not call.is_hidden:
            slot = event.slots[place] if event.slots else None
            more = {"runner_id": event.runner_id, "slot": slot}
            notes.append(("call started", call_id, attempt, call.name, now, more))
    return notes


def _ended(call: Call, outcome: object, cost: float | None, now: float) -> Note:
    """Return the note of a call's end. `cost`: seconds that its function ran; None if no slot has said them."""
    more: dict[str, Any] = {"runner_id": call.runner, "seconds": max(0.0, now - call.submitted_at)}
    # Only the calls of a map have an owner, and only those of calls have a token that knows the caller.
    caller = getattr(getattr(call, "owner", None) or call.token, "caller", None)
    if caller is not None:
        more["caller"] = caller
    if cost is not None:
        more["run_seconds"] = cost
        more["wait_seconds"] = max(0.0, now - call.waits_since - cost)
    if outcome is CANCELLED:
        what = "call cancelled"
    elif isinstance(outcome, Outcome):
        what = "call failed" if outcome.is_error else "call done"
        more["result_bytes"] = outcome.size
        if outcome.is_error:
            # The callback thread finds the name of its type.
            more |= {"kind": "raised", "error": outcome}
    else:
        what = "call failed"
        more |= {"kind": failure_kind(outcome), "error": type(outcome).__name__}
    return what, call.id, call.attempt, call.name, now, more


def _size(payload: Payload) -> int:
    if isinstance(payload, bytes):
        return len(payload)
    return sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in payload)


def failure_kind(error: object) -> str:
    """Return the word of events for an error that no function has raised."""
    kinds = (
        (errors.CallTimeoutError, "timeout"),
        (errors.RunnerLostError, "lost"),
        (errors.BootError, "boot"),
        (errors.BudgetExceeded, "budget"),
    )
    return next((kind for type_, kind in kinds if isinstance(error, type_)), "other")
