"""The review: finds calls that run for a while, and calls that no slot of this runner can start soon."""

from __future__ import annotations

from dragonfly_executor.core.slot_actions import LookAtSlot, ReportStarted, TakeBack
from dragonfly_executor.core.slot_moves import give_back
from dragonfly_executor.core.slot_records import SlotCall, SlotRecord
from dragonfly_executor.core.slot_state import REVIEW_AFTER, STARVED_FOR, SlotTable
from dragonfly_executor.core.slot_titles import expect_title


def review_slots(table: SlotTable, now: float) -> None:
    """Review the slots whose running call has taken a while."""
    for slot in table.slots.values():
        if not slot.in_flight or not slot.is_ready or now - slot.since < REVIEW_AFTER:
            continue
        first = slot.in_flight[0]
        if table.expects_short and not (first.is_reported or first.is_check):
            # On a busy machine, a slot often waits that long for a processor, in front of calls of some microseconds.
            table.actions.append(LookAtSlot(slot, first))
        else:
            review_slot(table, slot, now)


def slot_seen(table: SlotTable, slot: SlotRecord, call: SlotCall, is_starved: bool, now: float) -> None:
    """Review a slot, unless it has answered this call meanwhile, or lacks processor time: the answer to LookAtSlot."""
    if not slot.in_flight or slot.in_flight[0] is not call:
        return
    if not is_starved or now - slot.since >= STARVED_FOR:
        review_slot(table, slot, now)


def review_slot(table: SlotTable, slot: SlotRecord, now: float) -> None:
    """Report the slot's running call as started. If it is slow, take back the calls stuck behind it."""
    first = slot.in_flight[0]
    if slot.is_checking:
        table.extra = 1
    if not first.is_reported:
        first.is_reported = True
        if not first.is_check:
            table.actions.append(ReportStarted(slot, first))
            expect_title(table, slot.since)
    # Also a slot without calls behind: calls of another slot must not go there.
    if now - slot.since >= table.stuck_after:
        slot.is_stuck = True
        if len(slot.in_flight) > 1:
            table.actions.append(TakeBack(slot))


def finish_review(table: SlotTable, now: float) -> None:
    """End a review whose calls were handed out again, and begin another if one is needed."""
    table.is_in_review = False
    again = bool(table.waiting) and return_stuck(table, now)
    if again or any(map(needs_review, table.slots.values())):
        table.arm_review(now)


def return_stuck(table: SlotTable, now: float) -> bool:
    """Return the waiting calls to the parent if no slot of this runner can start them soon.

    Returns:
        True if another review is needed.
    """
    if now - table.last_start < table.stuck_after:
        return True
    if table.may_grow:
        # If forking has just failed, its retry hands out calls again, so no review is needed.
        return now >= table.no_fork_before
    if any(slot.is_retired and not slot.in_flight for slot in table.slots.values()):
        return True  # this slot ends soon, which makes room
    if table.expects_short and any(map(_is_under_way, table.slots.values())):
        return True  # this slot only lacks processor time
    give_back(table)
    return any(not slot.is_ready for slot in table.slots.values())


def _is_under_way(slot: SlotRecord) -> bool:
    """Return True if the slot goes on with its calls as soon as it can."""
    return bool(slot.in_flight) and slot.is_ready and not slot.is_stuck


def needs_review(slot: SlotRecord) -> bool:
    """Return True if the slot's running call has yet to be reported, or if calls wait behind it."""
    return bool(slot.in_flight) and slot.is_ready and (len(slot.in_flight) > 1 or not slot.in_flight[0].is_reported)
