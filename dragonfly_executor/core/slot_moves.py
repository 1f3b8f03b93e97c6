"""Moves calls from one place to the next: into a slot, back into the queue, to the parent."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from dragonfly_executor.core.slot_actions import (
    AnswerCheck,
    ExpectEnd,
    HideCall,
    ReportGone,
    ReportLost,
    ReportTimedOut,
    Retire,
    ReturnCall,
)
from dragonfly_executor.core.slot_idle_check import LIMIT
from dragonfly_executor.core.slot_limits import start_clock
from dragonfly_executor.core.slot_records import NEVER, RESERVED, RETIRED, EndReason, SlotCall, SlotRecord
from dragonfly_executor.core.slot_state import SlotTable
from dragonfly_executor.core.slot_titles import expect_title
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from dragonfly_executor.core.slot_records import Ref


def hand(table: SlotTable, slot: SlotRecord, call: SlotCall, now: float, orders: dict[int, list[SlotCall]]) -> None:
    """Hand a call, which is in no other place, to a slot.

    Args:
        table: the state.
        slot: the slot.
        call: the call.
        now: monotonic seconds.
        orders: the calls of the orders that were given since an action was carried out last, by process id of the slot.
    """
    call.slot = slot
    in_flight = slot.in_flight
    in_flight.append(call)
    calls = orders.get(slot.pid)
    if calls is not None:
        calls.append(call)
    else:
        orders[slot.pid] = calls = [call]
        table.actions.append((slot, calls))
    if call.is_check:
        slot.is_checking = True
    else:
        table.calls[call.call_id, call.attempt] = call
        slot.handed += 1
        if call.key:
            table.homes.put(call.key, slot.pid)
    if len(in_flight) == 1:
        table.idle.pop(slot.pid, None)
        became_first(table, slot, now)
    if table.calls_per_slot and slot.handed >= table.calls_per_slot:
        retire(table, slot)


def became_first(table: SlotTable, slot: SlotRecord, now: float) -> None:
    """Record that the slot can begin its first call now, and start the clocks of that call."""
    slot.started_before = table.last_start
    slot.since = table.last_start = now
    slot.is_stuck = False
    call = slot.in_flight[0]
    if call.is_reported:
        # It was the first call of another slot. The parent is not told again.
        expect_title(table, now)
    if call.limits is not None:
        start_clock(table, slot, call, call.limits)
    elif call.is_check and slot.is_ready:
        table.check.ends = now + LIMIT
        table.wake(table.check.ends)


def became_idle(table: SlotTable, slot: SlotRecord) -> None:
    """Record that the slot has no call, if it lives and is ready."""
    if slot.is_ready and slot.pid in table.slots:
        table.idle[slot.pid] = slot


def retire(table: SlotTable, slot: SlotRecord) -> None:
    """Hand no more calls to the slot. It ends when it has finished the calls that it has."""
    if not slot.is_retired:
        slot.blocked |= RETIRED
        table.actions.append(Retire(slot))
    expect_end(table, slot)


def expect_end(table: SlotTable, slot: SlotRecord) -> None:
    """Expect a retired slot that has no call left to end soon."""
    if slot.blocked & RETIRED and not slot.in_flight:
        table.actions.append(ExpectEnd(slot))
        release_reserved(table, slot)


def release_reserved(table: SlotTable, slot: SlotRecord) -> None:
    """If this is the extra slot, which has no call left, let the slot in whose place it was forked take calls again."""
    if table.is_extra(slot):
        for other in table.slots.values():
            other.blocked &= ~RESERVED


def forget(table: SlotTable, call: SlotCall) -> None:
    """Remove a call from the index of calls that are in slots."""
    table.calls.pop((call.call_id, call.attempt), None)
    call.slot = None


def take_from(table: SlotTable, slot: SlotRecord, refs: Collection[Ref]) -> list[SlotCall]:
    """Remove the calls that the slot has not begun from its calls.

    Args:
        table: the state.
        slot: the slot.
        refs: their ids and attempts.

    Returns:
        Those calls, in order.
    """
    # Matched by id, not by count: while the driver takes calls back, the slot may take one in between.
    taken = [call for call in slot.in_flight if call.ref in refs]
    slot.in_flight = deque(call for call in slot.in_flight if call.ref not in refs)
    slot.handed -= sum(not call.is_check for call in taken)
    slot.is_checking = any(call.is_check for call in slot.in_flight)
    if not slot.in_flight:
        slot.limit_at = NEVER
        became_idle(table, slot)
    return taken


def put_back(table: SlotTable, calls: Iterable[SlotCall]) -> None:
    """Put unstarted calls back into the queue, which stays in order of arrival. End those that are being stopped."""
    kept: list[SlotCall] = []
    for call in calls:
        slot = call.slot
        if call.is_shown:
            call.is_shown = False
            if slot is not None and slot.pid in table.slots:
                table.actions.append(HideCall(slot))
        forget(table, call)
        if call.is_check:
            table.check.ends = NEVER
        if call.end_reason is None:
            kept.append(call)
        elif call.is_check:
            finish_check(table, slot, may_stop=False)
        else:
            report_stopped(table, call, None)
    kept.sort(key=_arrival)
    waiting = table.waiting
    if waiting and kept and kept[-1].number > waiting[0].number:
        table.waiting = deque(sorted([*waiting, *kept], key=_arrival))
    else:
        waiting.extendleft(reversed(kept))


def _arrival(call: SlotCall) -> int:
    return call.number


def report_stopped(table: SlotTable, call: SlotCall, slot: SlotRecord | None) -> None:
    """Report the end of a call that was stopped. `slot` is the slot that was killed because of it, or None."""
    if call.end_reason is EndReason.TIMED_OUT:
        unopened = call.limits.unopened if call.limits is not None else 0
        table.actions.append(ReportTimedOut(call, unopened, slot))
    else:
        table.actions.append(ReportGone(call.call_id, call.attempt, slot))


def lose(table: SlotTable, slot: SlotRecord, call: SlotCall) -> None:
    """Report the end of a call whose slot has died under it."""
    forget(table, call)
    if call.is_check:
        finish_check(table, None, may_stop=False)
    elif call.end_reason is not None:
        report_stopped(table, call, slot)
    else:
        table.actions.append(ReportLost(slot, call))


def finish_check(table: SlotTable, slot: SlotRecord | None, *, may_stop: bool) -> None:
    """Report the end of the idle check.

    Args:
        table: the state.
        slot: the living slot that has it or had it, or None.
        may_stop: what it returned; False if it could not be completed.
    """
    table.actions.append(AnswerCheck(*table.check.finish(may_stop)))
    table.extra = 0
    if slot is not None:
        slot.is_checking = False
    if table.is_lending:
        return  # the extra slot may run a call that waits: `slot_lending` decides which slots stay
    for extra in filter(table.is_extra, table.slots.values()):
        # The extra slot goes, and not the slot of the check, so that numbers stay below `max_slots`.
        if not extra.is_retired:
            retire(table, extra)
        if extra.in_flight and slot is not None:
            slot.blocked |= RESERVED


def give_back(table: SlotTable) -> None:
    """Return all waiting calls to the parent."""
    for call in table.waiting:
        if call.is_check:
            finish_check(table, None, may_stop=False)
        else:
            table.actions.append(ReturnCall(call))
    table.waiting.clear()
