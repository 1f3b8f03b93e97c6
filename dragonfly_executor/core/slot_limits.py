"""The limits of running calls. The clock of a `run_timeout` starts with the function, not with its imports.

Only shared memory says when a function has started. So the scheduler asks the driver at each moment at which a limit
can have passed.
"""

from __future__ import annotations

from dragonfly_executor.core.slot_actions import LookAtProgress
from dragonfly_executor.core.slot_records import NEVER, RunLimits, SlotCall, SlotRecord
from dragonfly_executor.core.slot_state import SlotTable


def start_clock(table: SlotTable, slot: SlotRecord, call: SlotCall, limits: RunLimits) -> None:
    """Start the clocks of the slot's first call. The slot can begin it now."""
    limits.since = slot.since
    limits.ends = min(limits.ends, slot.since + limits.time_left)
    table.actions.append(LookAtProgress(slot, call))


def is_over(
    table: SlotTable, slot: SlotRecord, call: SlotCall, limits: RunLimits, began: float | None, now: float
) -> bool:
    """Return True if a limit of the slot's first call has passed. If not, have it checked again in time.

    Args:
        table: the state.
        slot: the slot.
        call: its first call.
        limits: the limits of that call.
        began: the time at which the call's function has started; None if it has not.
        now: monotonic seconds.
    """
    ends = limits.ends
    if began is not None:
        ends = min(ends, began + limits.run_timeout)
    elif slot.is_ready:
        # Its function may start this very moment.
        ends = min(ends, now + limits.run_timeout, _opened_by(table, call, limits))
    if ends > now:
        slot.limit_at = ends
        table.wake(ends)
        return False
    slot.limit_at = NEVER
    if began is None and limits.ends > now:
        limits.unopened = int((now - limits.since) * 1000)
    return True


def _opened_by(table: SlotTable, call: SlotCall, limits: RunLimits) -> float:
    """Return the time by which the call must be decoded. The transfer of a large call does not count."""
    if call.missing > 0 or limits.run_timeout == NEVER:
        return NEVER
    return limits.since + max(limits.run_timeout, table.opening)


def check_limits(table: SlotTable, now: float) -> None:
    """Have the limits that can have passed by now checked."""
    for slot in table.slots.values():
        if slot.limit_at <= now:
            slot.limit_at = NEVER
            if slot.in_flight and slot.in_flight[0].limits is not None:
                table.actions.append(LookAtProgress(slot, slot.in_flight[0]))
