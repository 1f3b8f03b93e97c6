"""`TaskSlot`: one slot whose event loop is shared by several calls. It belongs to the engine thread."""

from __future__ import annotations

from dragonfly_executor import errors
from dragonfly_executor.core import events
from dragonfly_executor.core.actions import CANCELLED
from dragonfly_executor.engine.outcome import Outcome
from dragonfly_executor.engine.placed.method_frames import WorkerLink
from dragonfly_executor.engine.task_slots.sent_call import SentCall
from dragonfly_executor.engine.task_slots.shared_slot_call import SharedSlotCall
from dragonfly_executor.protocol.call_progress import CallProgress
from dragonfly_executor.protocol.placed_messages import NUMBER, EndFlag, ParentSays
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.core.calls import Call, CallLimits, Payload
    from dragonfly_executor.engine.context import WorkerContext
    from dragonfly_executor.engine.objects.request import Session

    class SlotPool(Protocol):
        """The calls that share slots, as one of the slots uses them."""

        payload: Payload
        slot_limits: CallLimits

        def handle(self, event: Any) -> None: ...
        def submit_slot(self, slot: TaskSlot, before: int | None) -> None: ...
        def cancel_slot(self, call: SharedSlotCall) -> None: ...
        def slot_opened(self, slot: TaskSlot) -> None: ...
        def slot_is_gone(self, slot: TaskSlot) -> None: ...
        def find(self, call_id: int) -> Call | None: ...
        @property
        def ended(self) -> EndCount: ...

    class EndCount(Protocol):
        """Counts slots by their outcome."""

        def add(self, outcome: object) -> None: ...


TASK_GRACE = 5.0
"""Seconds in which a task that was cancelled must end."""
MOST_STARTS = 3
"""Number of slots that may be lost in a row before they have opened."""


class TaskSlot:
    """One slot. For the calls that run in it, it is a runner with `concurrency` slots.

    Args:
        engine: the engine of the pool, to which the slot is one call.
        pool: the calls that share slots.
        number: its number among their slots.

    Attributes:
        call: the call of the pool.
        opened_at: monotonic seconds at which it was ready for calls; None before that.
        is_leaving: whether it takes no more calls.
    """

    def __init__(self, engine: WorkerContext, pool: SlotPool, number: int) -> None:
        self._engine = engine
        self._pool = pool
        self.number = number
        self._starts = 0
        self._link: WorkerLink | None = None
        self._count = 0
        self._sent: dict[int, SentCall] = {}
        """The calls that are not answered, by their numbers in the slot."""
        self._numbers: dict[int, int] = {}
        """The numbers, by the ids of the calls."""
        self.opened_at: float | None = None
        self.is_leaving = self._is_stopping = False
        self._cause: Exception | None = None
        """The reason for which the slot is killed."""
        self.call: SharedSlotCall
        self.start()

    def start(self) -> None:
        """Submit the slot's call."""
        before = self.call.id if self._starts else None
        self._starts += 1
        self.call = SharedSlotCall(next(self._engine.ids), self._pool.payload, self, self._pool.slot_limits)
        self._pool.submit_slot(self, before)

    @property
    def is_idle(self) -> bool:
        """True if it has no call."""
        return not self._sent

    @property
    def runner_id(self) -> int | None:
        """The number of the pool's runner that it is on; None if it is on none."""
        return self.call.runner

    def calls(self) -> list[Call]:
        """Return its calls."""
        return [sent.call for sent in self._sent.values()]

    # -- what the core of its calls decides ----------------------------------------------------------------------------

    def send(self, call: Call) -> bool:
        """Send a call, unless its future was cancelled meanwhile. Returns whether it counts as begun from now on."""
        if self._link is None or not (call.token is None or call.token.hand_over()):
            return False  # the core asks for its end, and `kill` answers
        self._count += 1
        number, sent = self._count, SentCall(call)
        self._sent[number], self._numbers[call.id] = sent, number
        has_limit = call.limits.run_timeout is not None
        self._link.send(number, call.payload, reports=has_limit)
        return not has_limit

    def kill(self, call: Call) -> None:
        """End the task of a call. The others go on."""
        number = self._numbers.get(call.id)
        if number is None:
            self._pool.handle(events.CallGone(self.number, call.id, call.attempt))
        else:
            self._end_task(number, self._sent[number])

    def stop(self, *, at_once: bool) -> None:
        """End the slot: it gets no more calls. If not at once, it has none."""
        self._is_stopping = self.is_leaving = True
        if self._link is None or at_once:
            self._pool.cancel_slot(self.call)
        else:
            self._link.tell(ParentSays.STOP)
            # A task that a call has left behind may block the loop.
            self._engine.loop.call_later(TASK_GRACE, lambda: self._pool.cancel_slot(self.call))

    # -- what the slot says --------------------------------------------------------------------------------------------

    def opened(self, session: Session, token: int) -> None:
        """Note that the slot's call has begun. It then says `ready`."""
        self._link = WorkerLink(session, token)
        session.held.add(self)

    def ready(self) -> None:
        """Send calls from now on."""
        if self.opened_at is None and not self._is_stopping:
            self.opened_at = self._engine.loop.time()
            self._pool.slot_opened(self)

    def began(self, number: int) -> None:
        """Begin the time of a call with a `run_timeout`."""
        sent = self._sent.get(number)
        if sent is None:
            return
        self._pool.handle(events.CallsStarted(self.number, (sent.ref,)))
        limit = sent.call.limits.run_timeout
        if limit is not None and not sent.is_ending:
            sent.timer = self._engine.loop.call_later(limit, lambda: self._expired(number))

    def progressed(self, number: int, progress: CallProgress) -> None:
        """Hand on the report of a call."""
        sent = self._sent.get(number)
        call = None if sent is None else self._pool.find(sent.call.id)
        report = getattr(None if call is None else call.token, "progressed", None)
        if report is not None:
            report(progress)

    def cancelled(self, number: int) -> None:
        """Note that the loop has cancelled the task of a call."""
        sent = self._sent.get(number)
        if sent is not None:
            sent.is_cancelled = True

    def bytes_wanted(self, number: int) -> None:
        """Send the bytes of a call whose shared memory the slot cannot have."""
        sent = self._sent.get(number)
        if sent is not None and self._link is not None and not isinstance(sent.payload, bytes):
            self._link.send_bytes(number, sent.payload)

    def ended(self, number: int, flags: int, seconds: float, payload: Any) -> None:
        """Handle the end of a call.

        Args:
            number: its number in the slot.
            flags: `EndFlag`s.
            seconds: how long it ran.
            payload: the encoded value or exception, or its place in shared memory.
        """
        sent = self._sent.pop(number, None)
        if sent is None or self._link is None:
            return
        self._numbers.pop(sent.call.id, None)
        sent.stop_timer()
        self._link.answered(sent.payload)
        outcome = self._outcome(flags, payload)
        if sent.is_late:
            self._pool.handle(events.CallTimedOut(self.number, *sent.ref))
        elif sent.is_ending:
            self._pool.handle(events.CallGone(self.number, *sent.ref))
        elif flags & EndFlag.DROPPED:
            self._pool.handle(events.CallsReturned(self.number, (sent.ref,)))
        else:
            result = (*sent.ref, seconds, outcome, bool(flags & EndFlag.RETRYABLE))
            self._pool.handle(events.ResultsArrived(self.number, (result,)))
        if self._sent and all(each.is_ending for each in self._sent.values()):
            self._check_stuck()

    def _outcome(self, flags: int, payload: Any) -> Outcome:
        """Return the outcome of a call. One that is dropped gives its shared memory back."""
        try:
            if flags & EndFlag.SHARED:
                memory = self._engine.payloads.shared_memory()
                place, index, length = payload
                payload = b"" if memory is None else memory.result(place, index, length)
            return Outcome(self._engine.codec, payload, bool(flags & EndFlag.ERROR))
        except Exception as error:  # there is no such memory, or none is left here
            return Outcome.failed(error)

    # -- tasks that are to end -----------------------------------------------------------------------------------------

    def _end_task(self, number: int, sent: SentCall) -> None:
        if sent.is_ending or self._link is None:
            return
        sent.is_ending = True
        sent.stop_timer()
        self._link.tell(ParentSays.END_TASK, NUMBER.pack(number))
        sent.timer = self._engine.loop.call_later(TASK_GRACE, lambda: self._grace_is_over(number))

    def _expired(self, number: int) -> None:
        sent = self._sent.get(number)
        if sent is not None and not sent.is_ending:
            sent.is_late = True
            self._end_task(number, sent)

    def _grace_is_over(self, number: int) -> None:
        """Stop a task that has not ended after its cancel."""
        sent = self._sent.get(number)
        if sent is None:
            return
        sent.timer = None
        if sent.is_late or not sent.is_cancelled:
            # It is to run no more, or it blocks the loop, with all others.
            why = "did not end after its run_timeout" if sent.is_late else "blocked the slot's event loop"
            self._kill_slot(why)
            return
        # The others go on. The slot is of no more use after them.
        if not self.is_leaving:
            self.is_leaving = True
            self._pool.handle(events.RunnerLeaving(self.number))
        self._check_stuck()

    def _check_stuck(self) -> None:
        """Kill a slot that has only tasks that do not end."""
        stuck = [each for each in self._sent.values() if each.is_ending and each.timer is None]
        if stuck and len(stuck) == len(self._sent):
            self._kill_slot("did not end after it was cancelled")

    def _kill_slot(self, why: str) -> None:
        if self._cause is None:
            self._cause = errors.RunnerLostError(
                f"the slot was stopped, because another call in it {why}. The call may have run; use retries= if it is "
                "safe to run twice",
                runner_id=self.runner_id,
            )
            self._pool.cancel_slot(self.call)

    # -- the end of the slot -------------------------------------------------------------------------------------------

    def call_has_ended(self, call: SharedSlotCall, outcome: object) -> None:
        """See `SlotOwner`."""
        self._pool.ended.add(outcome)
        if call is not self.call:
            return
        if isinstance(outcome, (errors.PoolBrokenError, errors.BudgetExceeded)):
            # First, so that the calls fail with this error.
            self._pool.handle(events.PoolBroke(outcome))
            self._lost(outcome)
        elif self._link is None:
            self._never_opened(outcome)
        elif outcome is CANCELLED:
            # Its process may still run: `slot_is_gone` follows.
            if self._link.session.is_gone:
                self._lost(self._death())
        else:
            self._lost(self._death(outcome))

    def slot_is_gone(self, session: Session) -> None:
        """Handle the end of the slot's process, or of its runner. See `Session.held`."""
        if self.call.token is None or self._cause is not None or self._is_stopping:
            self._lost(self._death())

    def _death(self, outcome: object = None) -> Exception:
        """Return the error of the calls that ran in the slot."""
        if self._cause is not None:
            return self._cause
        if isinstance(outcome, Exception):
            return outcome
        how = f"its loop has ended: it {outcome.described()}" if isinstance(outcome, Outcome) else "it was cancelled"
        return errors.RunnerLostError(
            f"the slot that ran the call was lost: {how}. The call may have run; use retries= if it is safe to run "
            "twice",
            runner_id=self.runner_id,
        )

    def _never_opened(self, outcome: object) -> None:
        is_lost = outcome is CANCELLED or isinstance(outcome, errors.RunnerLostError)
        if self._is_stopping:
            self._gone()
        elif is_lost and self._starts < MOST_STARTS:
            # None of its calls was sent.
            self.start()
        elif isinstance(outcome, Outcome):
            self._fail(
                errors.BootError(f"the slot for async calls could not begin: it {outcome.described()}", final=True)
            )
        elif isinstance(outcome, Exception):
            self._fail(outcome)
        else:
            self._fail(errors.BootError("the slot for async calls was cancelled before it began", final=True))

    def _fail(self, error: Exception) -> None:
        self._pool.slot_is_gone(self)
        self._pool.handle(events.BootFailed(self.number, error, 0.0))

    def _lost(self, error: Exception) -> None:
        """Report the calls that were in the slot as lost."""
        link, self._link = self._link, None
        for sent in self._sent.values():
            sent.stop_timer()
            if link is not None:
                link.answered(sent.payload)
        late = [sent.ref for sent in self._sent.values() if sent.is_late]
        self._sent.clear()
        self._numbers.clear()
        if link is not None:
            link.session.held.discard(self)
        for ref in late:
            self._pool.handle(events.CallTimedOut(self.number, *ref))
        if not self._is_stopping:
            self._pool.handle(events.RunnerLost(self.number, error))
        self._gone()

    def _gone(self) -> None:
        self._pool.slot_is_gone(self)
        self._pool.handle(events.RunnerGone(self.number))
