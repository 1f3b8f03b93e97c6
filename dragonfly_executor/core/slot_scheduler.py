"""The scheduler of a runner: decides which slot runs which call. Events go in, actions come out.

Cheap calls are queued in the slots, so that no slot waits for the agent between two of them. A call that turns out to
sit behind a longer call is taken back within milliseconds. It goes to another slot, or back to the parent if no slot is
free. So two calls that wait for each other always run at the same time, even if they came in one batch.
"""

from __future__ import annotations

from dragonfly_executor.core import slot_gpus
from dragonfly_executor.core import slot_lending as lending
from dragonfly_executor.core import slot_moves as moves
from dragonfly_executor.core.slot_actions import (
    AnswerCheck,
    EndRunner,
    HideCall,
    KillSlot,
    ReadAnswers,
    ReportGone,
    TakeBack,
)
from dragonfly_executor.core.slot_choice import choose_slot, is_well_filled, overfull_slot
from dragonfly_executor.core.slot_limits import check_limits, is_over
from dragonfly_executor.core.slot_records import DYING, FULL, NEVER, EndReason, SlotCall, SlotRecord
from dragonfly_executor.core.slot_review import finish_review, review_slots, slot_seen
from dragonfly_executor.core.slot_state import COST_WEIGHT, SlotTable
from dragonfly_executor.core.slot_titles import show_calls
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from typing import Final

    from dragonfly_executor.core.slot_records import Ref

FORK_PAUSE: Final = 1.0
"""Seconds after a failed fork until the next attempt."""


class SlotScheduler:
    """The scheduler of a runner.

    The driver reports what happens, carries out all of `table.actions` in their order, and then calls `schedule`, until
    no action is left and `is_due` is False. The scheduler is deterministic: the same log of events and times gives the
    same actions. All times are monotonic seconds.

    Args:
        now: the time of its start.
    """

    def __init__(self, now: float) -> None:
        self.table = SlotTable(now)
        self.is_due = False
        """True if an event has happened after which calls may be handed out."""

    def schedule(self, now: float) -> None:
        """Hand waiting calls to slots, as long as slots take calls. Do so only when all actions are carried out."""
        table = self.table
        self.is_due = False
        if table.is_closed:
            moves.give_back(table)
        waiting = table.waiting
        choose = slot_gpus.choose_slot if table.gives_gpus else choose_slot
        orders: dict[int, list[SlotCall]] = {}
        while waiting and (orders or not is_well_filled(table)):
            slot = choose(table, waiting[0])
            if slot is None:
                break
            moves.hand(table, slot, waiting.popleft(), now, orders)
        if waiting and slot_gpus.make_slot(table, waiting[0], now):
            return  # the fork's outcome leads here again
        if table.is_in_review:
            if table.actions:
                self.is_due = True  # a slot may refuse a call
                return
            finish_review(table, now)
        elif table.review_at == NEVER and (waiting or table.calls):
            table.arm_review(now)
        if len(table.calls) > 1 and (table.gives_gpus or not waiting):
            overfull = overfull_slot(table)
            if overfull is not None:
                table.actions.append(TakeBack(overfull))

    def deadline(self) -> float | None:
        """Return when the driver must call `tick` next. None means never."""
        return None if self.table.wake_at == NEVER else self.table.wake_at

    def tick(self, now: float) -> None:
        """Do what is due."""
        table = self.table
        table.forked = 0
        for slot in table.slots.values():
            slot.blocked &= ~FULL
        if table.review_at <= now:
            table.review_at = NEVER
            table.is_in_review = True
            # Before any call is stopped: a call that is stopped may leave its slot before its start is reported.
            review_slots(table, now)
        check_limits(table, now)
        check = table.check
        if check.ends <= now:
            check.ends = NEVER
            if check.call is not None and check.call.slot is not None:
                self._stop_in_slot(check.call, check.call.slot, EndReason.CHECK_TIMED_OUT)
        if table.show_at <= now:
            show_calls(table, now)
        table.wake_at = table.next_wake(now)
        self.is_due = True

    # -- calls come and go --------------------------------------------------------------------------------------------

    def call_arrived(self, call: SlotCall) -> None:
        """Accept a call from the parent."""
        table = self.table
        table.arrived += 1
        call.number = table.arrived
        (table.held if table.is_holding else table.waiting).append(call)
        if call.gpus and table.gpus and not table.gives_gpus:
            slot_gpus.begin(table)

    def check_requested(self, call: SlotCall) -> None:
        """Run the user's idle check in a slot, unless calls are here."""
        table = self.table
        if not table.is_idle:
            table.actions.append(AnswerCheck(may_stop=False))
        elif table.check.request(call):
            table.arrived += 1
            call.number = table.arrived
            table.waiting.append(call)
            self.is_due = True

    def call_cancelled(self, call_id: int, attempt: int) -> None:
        """Stop a call without harming other calls. ReportGone tells the parent that the call is no longer here."""
        table = self.table
        call = table.calls.get((call_id, attempt))
        if call is not None and call.slot is not None:
            self._stop_in_slot(call, call.slot, EndReason.CANCELLED)
            return
        for queue in (table.waiting, table.held):
            for waiting in queue:
                if waiting.ref == (call_id, attempt):
                    queue.remove(waiting)
                    break
        # Reported for an unknown call too, because the parent may still count that call here.
        table.actions.append(ReportGone(call_id, attempt, None))

    def payload_arrived(self, call: SlotCall, size: int, now: float) -> None:
        """Record that `size` more bytes of a large payload are in the slot."""
        call.missing -= size
        if call.limits is not None:
            call.limits.since = now

    def shared_requested(self, call: SlotCall) -> None:
        """Record that a call waits in its slot for one more shared object. It cannot start before it has the object."""
        call.missing += 1

    # -- answers of slots ---------------------------------------------------------------------------------------------

    def answered(self, slot: SlotRecord, times: Iterable[float], now: float) -> None:
        """Record that the slot's first calls have results.

        Args:
            slot: the slot.
            times: how long each of these calls took, in seconds.
            now: monotonic seconds.
        """
        table, in_flight = self.table, slot.in_flight
        cost, calls = table.cost, table.calls
        if not in_flight:
            return
        for seconds in times:
            if not in_flight:
                break
            cost = seconds if cost is None else cost + COST_WEIGHT * (seconds - cost)
            call = in_flight.popleft()
            calls.pop((call.call_id, call.attempt), None)
            call.slot = None
            if call.is_shown:
                table.actions.append(HideCall(slot))
        table.cost = cost
        self._next_is_first(slot, now)
        if table.is_lending:
            lending.review(table)

    def check_answered(self, slot: SlotRecord, may_stop: bool, now: float) -> None:
        """Record that the idle check, which is the slot's first call, has returned `may_stop`."""
        if slot.in_flight:
            moves.finish_check(self.table, slot, may_stop=may_stop)
            check = slot.in_flight.popleft()
            check.slot = None
            self._next_is_first(slot, now)
            if self.table.is_lending:
                lending.review(self.table)

    def _next_is_first(self, slot: SlotRecord, now: float) -> None:
        """Record that calls in front of the slot's calls have ended."""
        slot.is_stuck = False
        if slot.blocked:
            slot.blocked &= ~FULL
            moves.expect_end(self.table, slot)
        self.is_due = True
        if slot.in_flight:
            moves.became_first(self.table, slot, now)
        else:
            moves.became_idle(self.table, slot)

    def waits_for_children(self, slot: SlotRecord, ref: Ref, *, waits: bool) -> None:
        """Record that a slot's running call waits for calls that it has submitted, or that it goes on after that."""
        if slot.in_flight and slot.in_flight[0].ref == ref:
            lending.lend(self.table, slot, slot.in_flight[0]) if waits else lending.go_on(self.table, slot)
            self.is_due = True

    def declined(self, slot: SlotRecord) -> None:
        """Put the slot's calls back into the queue and retire the slot: it has loaded files that have changed since."""
        if not slot.in_flight:
            return
        first = slot.in_flight.popleft()
        if not slot.in_flight:
            moves.became_idle(self.table, slot)
        slot.handed -= 1
        self.table.actions.append(TakeBack(slot))
        moves.put_back(self.table, [first])
        moves.retire(self.table, slot)
        self.is_due = True

    def taken_back(self, slot: SlotRecord, refs: Collection[Ref]) -> None:
        """Put the calls that were taken back from a slot into the queue: the answer to TakeBack.

        Args:
            slot: the slot.
            refs: the ids and attempts of the calls. They have provably never started.
        """
        if not refs:
            return
        slot.blocked &= ~FULL
        moves.put_back(self.table, moves.take_from(self.table, slot, refs))
        moves.expect_end(self.table, slot)
        if self.table.is_lending:
            lending.review(self.table)
        self.is_due = True

    def hand_refused(self, slot: SlotRecord, calls: Sequence[SlotCall]) -> None:
        """Put the calls back into the queue that the slot did not take: an answer to Hand."""
        table = self.table
        if slot.in_flight[0] is calls[0] and table.last_start == slot.since:
            table.last_start = slot.started_before
        moves.put_back(table, moves.take_from(table, slot, {call.ref for call in calls}))
        slot.blocked |= FULL
        moves.expect_end(table, slot)
        self.is_due = True

    # -- stopping calls -----------------------------------------------------------------------------------------------

    def _stop_in_slot(self, call: SlotCall, slot: SlotRecord, reason: EndReason) -> None:
        """Have the slot killed if it is running this call.

        First the calls behind it are taken back, then the results that have arrived are read. If the call is still
        unanswered after that, it is the only call that can be running.
        """
        call.end_reason = reason
        self.table.actions.append(TakeBack(slot))
        self.table.actions.append(ReadAnswers(slot, call))

    def answers_read(self, slot: SlotRecord, call: SlotCall) -> None:
        """Have the slot killed if the call to stop is still there: the answer to ReadAnswers."""
        if call.slot is slot:
            slot.blocked |= DYING
            self.table.actions.append(KillSlot(slot))
            if call.is_check:
                self.table.check.killed = slot.pid
        self.is_due = True

    def progress_seen(self, slot: SlotRecord, call: SlotCall, began: float | None, now: float) -> None:
        """Stop a call if a limit of it has passed: the answer to LookAtProgress.

        Args:
            slot: the slot.
            call: its first call at the time of the question.
            began: the time at which the call's function has started; None if it has not.
            now: monotonic seconds.
        """
        if call.slot is not slot or slot.in_flight[0] is not call or call.end_reason is not None:
            return
        if call.limits is not None and is_over(self.table, slot, call, call.limits, began, now):
            self._stop_in_slot(call, slot, EndReason.TIMED_OUT)

    def slot_seen(self, slot: SlotRecord, call: SlotCall, is_starved: bool, now: float) -> None:
        """Review a slot whose running call is slower than expected: the answer to LookAtSlot.

        Args:
            slot: the slot.
            call: its running call, when the order was given.
            is_starved: whether the slot lacks processor time for this call.
            now: monotonic seconds.
        """
        slot_seen(self.table, slot, call, is_starved, now)

    # -- slots come and go --------------------------------------------------------------------------------------------

    def slot_forked(self, slot: SlotRecord) -> None:
        """Use a new slot: an answer to Fork."""
        self.table.slots[slot.pid] = self.table.starting[slot.pid] = slot
        self.table.forked += 1
        self.is_due = True

    def fork_failed(self, now: float) -> None:
        """Go on without another slot, and try again after `FORK_PAUSE`: an answer to Fork."""
        table = self.table
        if not table.slots:
            table.actions.append(EndRunner())
        elif now - table.last_start >= table.stuck_after:
            # The parent counts on slots that could not be forked, so waiting calls may sit behind a long one.
            moves.give_back(table)
        table.no_fork_before = now + FORK_PAUSE
        table.wake(table.no_fork_before)
        self.is_due = True

    def slot_ready(self, slot: SlotRecord, now: float) -> None:
        """Start the clocks of the slot's first call: its initializer is done."""
        slot.is_ready = True
        self.table.starting.pop(slot.pid, None)
        if slot.in_flight:
            moves.became_first(self.table, slot, now)
        else:
            moves.became_idle(self.table, slot)
        self.is_due = True

    def slot_dying(self, slot: SlotRecord) -> None:
        """Hand no more calls to the slot: the driver kills it, or its setup has failed."""
        slot.blocked |= DYING

    def hold_back(self, slot: SlotRecord) -> None:
        """Take back the calls behind the slot's running call, and queue none there until it is answered."""
        slot.is_stuck = True
        if len(slot.in_flight) > 1:
            self.table.actions.append(TakeBack(slot))

    def slot_ended(self, slot: SlotRecord, refs: Collection[Ref], *, tell: bool) -> None:
        """Report the end of each call that the slot had begun, and put the others back into the queue.

        Args:
            slot: the slot that ended.
            refs: ids and attempts of the calls that it had not begun.
            tell: also report the first call of a slot that died before it was ready.
        """
        table = self.table
        for slots in (table.slots, table.starting, table.idle):
            slots.pop(slot.pid, None)
        # A slot that was never ready has not taken a call.
        unstarted = moves.take_from(table, slot, refs if slot.is_ready else {call.ref for call in slot.in_flight})
        begun = [*slot.in_flight]
        if tell and unstarted and not slot.is_ready:
            begun.append(unstarted.pop(0))
        slot.in_flight.clear()
        for call in begun:
            moves.lose(table, slot, call)
        moves.put_back(table, unstarted)
        moves.release_reserved(table, slot)
        if table.is_lending:
            lending.review(table)
        self.is_due = True

    # -- the whole runner ---------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Hold the calls that arrive from now on, until `release`: the files are changing."""
        if not self.table.is_closed:
            self.table.is_holding = True

    def release(self, now: float, *, fresh: bool) -> None:
        """Start the held calls. If `fresh`, start them only in slots that are forked from now on."""
        table = self.table
        if fresh:
            for slot in table.slots.values():
                if not slot.is_retired and not slot.is_dying:
                    table.actions.append(TakeBack(slot))
                    moves.retire(table, slot)
        table.is_holding = False
        table.waiting.extend(table.held)
        table.held.clear()
        table.last_start = now
        self.is_due = True

    def close(self, now: float) -> None:
        """Start no more calls. Calls that slots have not taken, and calls that still arrive, go back to the parent."""
        self.table.is_closed = True
        self.table.actions.extend(map(TakeBack, self.table.slots.values()))
        self.release(now, fresh=False)

    def end_slots(self) -> None:
        """End every slot. Slots that run a call are killed, the others end by themselves."""
        for slot in self.table.slots.values():
            if slot.in_flight and not slot.is_dying:
                slot.blocked |= DYING
                self.table.actions.append(KillSlot(slot))
            elif not slot.is_retired:
                moves.retire(self.table, slot)
