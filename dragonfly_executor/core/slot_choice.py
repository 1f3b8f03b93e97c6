"""Decides which slot takes the next call, how many calls are queued ahead in a slot, and when to fork another."""

from __future__ import annotations

from dragonfly_executor.core.slot_records import SlotCall, SlotRecord
from dragonfly_executor.core.slot_state import SlotTable
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

CHEAP: Final = 0.001
"""Seconds of a call below which calls are queued in the slots."""
PREFETCH_SECONDS: Final = 0.004
"""Seconds of work that may be queued in a slot."""
MAX_PREFETCH: Final = 64
"""Calls that may be queued in a slot behind the running one."""


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
    for slot in table.slots.values():
        if slot.blocked:
            continue
        if not slot.in_flight:
            return slot
        if (
            home is None
            and slot.is_ready
            and not (slot.is_stuck or slot.is_checking)
            and (best is None or len(slot.in_flight) < len(best.in_flight))
        ):
            best = slot
    if best is None or call.is_large or table.may_grow or len(best.in_flight) > prefetch_depth(table.cost):
        return None
    # A large payload needs the slot's stream to itself until it is transferred.
    return None if best.in_flight[-1].is_large else best


def takes_more(table: SlotTable, slot: SlotRecord) -> bool:
    """Return whether a slot that has calls takes another one, which will wait there."""
    return (
        slot.is_ready
        and not (slot.blocked or slot.is_stuck or slot.is_checking)
        and len(slot.in_flight) <= prefetch_depth(table.cost)
        and not slot.in_flight[-1].is_large
    )


def prefetch_depth(cost: float | None) -> int:
    """Return the number of calls that may be queued in a slot behind the running one.

    Args:
        cost: seconds that calls took recently; None if that is unknown.
    """
    if cost is None or cost >= CHEAP:
        return 0
    return min(MAX_PREFETCH, int(PREFETCH_SECONDS / max(cost, 1e-6)))


def overfull_slot(table: SlotTable) -> SlotRecord | None:
    """Return the slot with the most queued calls, if another slot is idle. Return None if there are no such two."""
    fullest: SlotRecord | None = None
    has_idle = False
    for slot in table.slots.values():
        count = len(slot.in_flight)
        if count > 1:
            if not slot.is_retired and (fullest is None or count > len(fullest.in_flight)):
                fullest = slot
        elif count == 0 and slot.is_ready and not slot.blocked and not slot.gpus:
            has_idle = True
    return fullest if has_idle else None


def may_fork(table: SlotTable, now: float) -> bool:
    """Return True if a slot may be forked now.

    One slot is forked between two ticks: meanwhile the other slots may empty the queue.
    """
    return table.may_grow and not table.has_forked and now >= table.no_fork_before
