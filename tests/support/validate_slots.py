"""What must hold of a runner's scheduler between any two events."""

from __future__ import annotations

from dragonfly_executor.core.slot_records import DYING, FULL, NEVER, PARKED, RESERVED, RETIRED, SlotCall
from dragonfly_executor.core.slot_scheduler import SlotScheduler
from dragonfly_executor.core.slot_state import SlotTable, prefetch_depth

MOST_IN_FLIGHT = 1 + prefetch_depth(1e-9)
"""The running call of a slot, and the calls that may be queued behind it."""


def validate_slots(scheduler: SlotScheduler, now: float) -> None:
    """Check all that can be seen in a state. `now`: the time of the last event."""
    table = scheduler.table
    checks = [*check_slots(table), *check_queues(table)]
    check_idle_check(table, checks)
    check_times(table, now)
    if not table.actions and not scheduler.is_due:
        check_quiet(table)


def check_slots(table: SlotTable) -> list[SlotCall]:
    """Check each slot, and that each call on it is in one place. Return the idle checks on slots."""
    checks: list[SlotCall] = []
    calls: dict[tuple[int, int], SlotCall] = {}
    count = useful = 0
    for pid, slot in table.slots.items():
        assert slot.pid == pid
        blocked, counted = slot.blocked, 0
        assert 0 <= blocked <= RETIRED | DYING | FULL | RESERVED | PARKED
        useful += not (blocked & (RETIRED | DYING | PARKED) or slot.is_lending)
        assert not blocked & PARKED or (table.is_lending and not slot.is_lending)
        is_checking = False
        for call in slot.in_flight:
            assert call.slot is slot
            if call.is_check:
                is_checking = True
                checks.append(call)
            else:
                counted += 1
                calls[call.ref] = call
        count += counted
        assert slot.is_checking == is_checking
        assert slot.handed >= counted
        if table.calls_per_slot:
            assert slot.handed <= table.calls_per_slot
            assert slot.handed < table.calls_per_slot or slot.is_retired
        assert len(slot.in_flight) <= MOST_IN_FLIGHT
    check_indexes(table)
    assert len(calls) == count, "a call is in two places"
    assert table.calls == calls
    # After a close nothing starts, so a slot too many, from the time of a check, does no harm.
    assert table.is_closed or useful <= table.max_slots + (table.check.call is not None), "too many slots"
    assert table.extra == 0 or table.check.call is not None
    check_numbers(table)
    check_lending(table)
    return checks


def check_indexes(table: SlotTable) -> None:
    """Check that slots without a call are found as such."""
    assert [*table.starting] == [pid for pid, slot in table.slots.items() if not slot.is_ready]
    assert {*table.idle} == {pid for pid, slot in table.slots.items() if slot.is_ready and not slot.in_flight}
    for index in (table.starting, table.idle):
        assert all(slot is table.slots[pid] for pid, slot in index.items())


def check_numbers(table: SlotTable) -> None:
    """Check that no two slots have one number, and that an extra slot stays no longer than the check that it is for."""
    numbers = {slot.number for slot in table.slots.values()}
    assert len(numbers) == len(table.slots), "two slots have the same number"
    assert table.is_lending or max(numbers, default=0) <= table.max_slots
    busy = reserved = 0
    is_extra_busy = False
    for slot in table.slots.values():
        busy += bool(slot.in_flight) and not slot.is_checking and not table.is_lending
        reserved += bool(slot.blocked & RESERVED)
        if table.is_extra(slot):
            assert slot.is_retired or table.check.call is not None or table.is_lending, "an extra slot stays"
            is_extra_busy |= bool(slot.in_flight)
    assert busy <= table.max_slots, "more calls run at once than slots were asked for"
    assert reserved <= is_extra_busy, "a slot waits for nothing"


def check_lending(table: SlotTable) -> None:
    """Check which slots have lent their place, and that nothing is left of that once it is over."""
    for slot in table.slots.values():
        assert not slot.is_lending or (slot.in_flight and slot.in_flight[0].ref in table.lenders)
        assert not slot.is_lending or slot.is_stuck or slot.blocked, "a call is queued behind one that waits"
    assert table.is_lending or not (table.lent or table.lenders)


def check_queues(table: SlotTable) -> list[SlotCall]:
    """Check the calls that wait. Return the idle checks among them."""
    calls = [*table.waiting, *table.held]
    if not calls:
        assert table.is_idle == (not table.calls)
        return []
    assert len(set(map(id, calls))) == len(calls), "a call is in two places"
    assert all(call.slot is None for call in calls)
    for queue in (table.waiting, table.held):
        numbers = [call.number for call in queue]
        assert numbers == sorted(numbers), "a queue is not in order of arrival"
    assert table.is_holding or not table.held
    checks = [call for call in calls if call.is_check]
    is_idle = not table.calls and not table.waiting and all(call.is_check for call in table.held)
    assert table.is_idle == is_idle
    return checks


def check_idle_check(table: SlotTable, checks: list[SlotCall]) -> None:
    """Check that the idle check in progress is in one place, and that there is no other."""
    assert checks == ([] if table.check.call is None else [table.check.call])
    assert table.check.call is not None or (table.check.ends == NEVER and not table.check.is_outdated)


def check_times(table: SlotTable, now: float) -> None:
    """Check that the scheduler asks to be called for all that will be due."""
    wake_at = table.wake_at
    assert wake_at <= table.review_at
    assert wake_at <= table.check.ends
    for slot in table.slots.values():
        assert wake_at <= slot.limit_at
    assert table.last_start <= now


def check_quiet(table: SlotTable) -> None:
    """Check that nothing is left to be done now."""
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
