"""Decides which slot takes the next call, how many calls are queued ahead in a slot, and when to fork another."""

from __future__ import annotations

from dragonfly_executor.core.slot_records import SlotCall, SlotRecord
from dragonfly_executor.core.slot_state import SlotTable, prefetch_depth


def choose_slot(table: SlotTable, call: SlotCall) -> SlotRecord | None:
    """Return an idle slot, or the slot with the fewest calls that takes another, or None.

    Among idle slots, and if no slot is idle, the slot that was handed a call with the same key last is preferred.
    """
    best = home = table.slots.get(table.homes.get(call.key)) if call.key else None
    if home is not None:
        if not home.blocked and not home.in_flight:
            return home
        if not takes_more(table, home):
            best = home = None
    if table.idle:
        # The slot that was busy last comes first: its memory is in the processor's caches.
        for slot in reversed(table.idle.values()):
            if not slot.blocked:
                return slot
    if table.starting:
        for slot in table.starting.values():
            if not (slot.blocked or slot.in_flight):
                return slot
    if call.is_large or table.may_grow or not (depth := prefetch_depth(table.cost)):
        return None
    if best is None:
        fewest = depth + 1
        for slot in table.slots.values():
            count = len(slot.in_flight)
            if count < fewest and not (slot.blocked or slot.is_stuck or slot.is_checking) and slot.is_ready:
                best, fewest = slot, count
    # A large payload needs the slot's stream to itself until it is transferred.
    return None if best is None or best.in_flight[-1].is_large else best


def takes_more(table: SlotTable, slot: SlotRecord) -> bool:
    """Return whether a slot that has calls takes another one, which will wait there."""
    return (
        slot.is_ready
        and not (slot.blocked or slot.is_stuck or slot.is_checking)
        and len(slot.in_flight) <= prefetch_depth(table.cost)
        and not slot.in_flight[-1].is_large
    )


def overfull_slot(table: SlotTable) -> SlotRecord | None:
    """Return the slot with the most queued calls, if another slot is idle. Return None if there are no such two."""
    if not any(not slot.blocked and not slot.gpus for slot in table.idle.values()):
        return None
    fullest: SlotRecord | None = None
    most = 1
    for slot in table.slots.values():
        count = len(slot.in_flight)
        if count > most and not slot.is_retired:
            fullest, most = slot, count
    return fullest


def may_fork(table: SlotTable, now: float) -> bool:
    """Return True if a slot may be forked now.

    The number of forks between two ticks is limited: meanwhile the other slots may empty the queue.
    """
    return table.may_grow and table.forks_left > 0 and now >= table.no_fork_before


def is_well_filled(table: SlotTable) -> bool:
    """Return True if each slot still has half of the calls that may be queued in it.

    Then no call is handed out for a while. Once a slot has less, all slots are filled up: many calls in one step cost a
    fraction of as many steps.
    """
    if table.gives_gpus or table.idle or table.starting or table.may_grow:
        return False
    half = prefetch_depth(table.cost) // 2
    return all(len(slot.in_flight) > half for slot in table.slots.values())
