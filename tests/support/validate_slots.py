"""What must hold of a runner's scheduler between any two events."""

from __future__ import annotations

from dragonfly_executor.core.slot_choice import prefetch_depth
from dragonfly_executor.core.slot_records import DYING, FULL, NEVER, RESERVED, RETIRED, SlotCall
from dragonfly_executor.core.slot_scheduler import SlotScheduler
from dragonfly_executor.core.slot_state import SlotTable


def validate_slots(scheduler: SlotScheduler, now: float) -> None:
    table = scheduler.table
    check_places(table)
    check_slots(table)
    check_idle_check(table)
    check_times(table, now)
    if not table.actions and not scheduler.is_due:
        check_quiet(table)


def everywhere(table: SlotTable) -> list[SlotCall]:
    in_slots = [call for slot in table.slots.values() for call in slot.in_flight]
    return [*table.waiting, *table.held, *in_slots]


def check_places(table: SlotTable) -> None:
    """Each call is in exactly one place."""
    calls = everywhere(table)
    assert len({id(call) for call in calls}) == len(calls), "a call is in two places"
    in_slots = {call.ref: call for slot in table.slots.values() for call in slot.in_flight if not call.is_check}
    assert table.calls == in_slots
    for slot in table.slots.values():
        assert all(call.slot is slot for call in slot.in_flight)
    for queue in (table.waiting, table.held):
        assert all(call.slot is None for call in queue)
        numbers = [call.number for call in queue]
        assert numbers == sorted(numbers), "a queue is not in order of arrival"
    assert table.is_holding or not table.held
    assert table.is_idle == (not [call for call in calls if not call.is_check or call in table.waiting])


def check_slots(table: SlotTable) -> None:
    useful = [slot for slot in table.slots.values() if not slot.is_retired and not slot.is_dying]
    # After a close nothing starts, so a slot too many, from the time of a check, does no harm.
    assert table.is_closed or len(useful) <= table.max_slots + (table.check.call is not None), "too many slots"
    assert table.extra == 0 or table.check.call is not None
    for pid, slot in table.slots.items():
        assert slot.pid == pid
        assert slot.is_checking == any(call.is_check for call in slot.in_flight)
        assert 0 <= slot.blocked <= RETIRED | DYING | FULL | RESERVED
        assert slot.handed >= sum(not call.is_check for call in slot.in_flight)
        assert not table.calls_per_slot or slot.handed <= table.calls_per_slot
        assert not table.calls_per_slot or slot.handed < table.calls_per_slot or slot.is_retired
        # The running call, and what may be queued behind it.
        assert len(slot.in_flight) <= 1 + prefetch_depth(1e-9)
    check_numbers(table)


def check_numbers(table: SlotTable) -> None:
    """No two slots have one number, and an extra slot stays no longer than the check for which it was forked."""
    numbers = sorted(slot.number for slot in table.slots.values())
    assert numbers == sorted(set(numbers)), "two slots have the same number"
    assert not numbers or numbers[-1] <= table.max_slots
    extras = [slot for slot in table.slots.values() if table.is_extra(slot)]
    assert all(slot.is_retired or table.check.call is not None for slot in extras), "an extra slot stays"
    busy = sum(bool(slot.in_flight) and not slot.is_checking for slot in table.slots.values())
    assert busy <= table.max_slots, "more calls run at once than slots were asked for"
    reserved = [slot for slot in table.slots.values() if slot.blocked & RESERVED]
    assert len(reserved) <= 1
    assert not reserved or any(slot.in_flight for slot in extras), "a slot waits for nothing"


def check_idle_check(table: SlotTable) -> None:
    """The check in progress is in one place, and there is no other."""
    checks = [call for call in everywhere(table) if call.is_check]
    assert checks == ([] if table.check.call is None else [table.check.call])
    assert table.check.call is not None or (table.check.ends == NEVER and not table.check.is_outdated)


def check_times(table: SlotTable, now: float) -> None:
    """What will be due is asked for in time."""
    due = [table.review_at, table.check.ends, *(slot.limit_at for slot in table.slots.values())]
    assert table.wake_at <= min(due)
    assert table.last_start <= now


def check_quiet(table: SlotTable) -> None:
    """Nothing is left to be done now."""
    for slot in table.slots.values():
        first = slot.in_flight[0] if slot.in_flight else None
        if first is not None and first.limits is not None and first.end_reason is None and first.limits.ends < NEVER:
            assert slot.limit_at < NEVER, "nobody looks at the limits of a call"
        if first is not None and first.is_check and slot.is_ready and first.end_reason is None:
            assert table.check.ends < NEVER, "nobody looks at the time of the idle check"
        if first is not None and slot.is_ready and (len(slot.in_flight) > 1 or not first.is_reported):
            assert table.review_at < NEVER or first.is_check, "no review will look at a call that has just begun"
    if table.calls or table.waiting:
        assert table.is_idle is False
    assert not table.is_in_review
