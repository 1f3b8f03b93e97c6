"""The wait of a call for shared objects: it counts neither as running nor as opening the call."""

from __future__ import annotations

from dragonfly_executor.core.slot_limits import is_over
from dragonfly_executor.core.slot_records import NEVER, RunLimits, SlotCall, SlotRecord
from dragonfly_executor.core.slot_scheduler import SlotScheduler

RUN, OPENING = 1.0, 2.0


def test_the_clock_starts_when_the_last_object_is_there() -> None:
    scheduler = SlotScheduler(0.0)
    table = scheduler.table
    table.opening = OPENING
    call, slot = SlotCall(1, 1, b"", 0), SlotRecord(7, 0.0, 0, None)
    slot.is_ready = True
    limits = call.limits = RunLimits(NEVER, RUN)

    def over(now: float) -> bool:
        return is_over(table, slot, call, limits, None, now)

    assert over(OPENING)
    for _ in range(2):
        scheduler.shared_requested(call)
    assert not over(1000.0)
    scheduler.payload_arrived(call, 1, 1000.0)
    assert not over(2000.0)
    scheduler.payload_arrived(call, 1, 2000.0)
    assert not over(2000.0 + OPENING - 0.1)
    assert over(2000.0 + OPENING)
