"""Calls that wait for calls that they have submitted. Meanwhile another slot runs a call in place of theirs.

`max_slots` bounds the calls that run. A call that waits for its child calls *lends* its slot: the process stays, and
one more slot may take calls. When the wait is over, the call goes on at once. It does not wait for its slot to come
back, because it may hold a lock for which a call in its place waits. So for a while one call too many may run. No call
is started until enough of them have ended.

`table.is_lending` is True from the first such wait until the last of these calls has ended, and the additional slots as
well. During that time, `rebalance` decides after each change which slots take calls. At all other times this costs
nothing.
"""

from __future__ import annotations

from operator import attrgetter

from dragonfly_executor.core import slot_moves as moves
from dragonfly_executor.core.slot_actions import TakeBack
from dragonfly_executor.core.slot_records import DYING, PARKED, RESERVED, RETIRED, SlotCall, SlotRecord
from dragonfly_executor.core.slot_state import SlotTable


def lend(table: SlotTable, slot: SlotRecord, call: SlotCall) -> None:
    """Record that a slot's running call waits for its child calls."""
    if slot.is_lending:
        return
    slot.is_lending = table.is_lending = True
    table.lenders[call.ref] = call
    # The calls behind it go to other slots, and none is queued there until it is answered.
    slot.is_stuck = True
    if len(slot.in_flight) > 1:
        table.actions.append(TakeBack(slot))
    for other in table.slots.values():
        # The call that runs in the extra slot may wait for one that needs this slot.
        other.blocked &= ~RESERVED
    rebalance(table)


def go_on(table: SlotTable, slot: SlotRecord) -> None:
    """Record that a slot's running call goes on after such a wait."""
    if slot.is_lending:
        slot.is_lending = False
        rebalance(table)


def review(table: SlotTable) -> None:
    """Update the slots after calls or slots have ended. Call this only while `table.is_lending`."""
    lenders = table.lenders
    for ref in [ref for ref in lenders if ref not in table.calls]:
        del lenders[ref]
    for slot in table.slots.values():
        if slot.is_lending and (not slot.in_flight or slot.in_flight[0].ref not in lenders):
            slot.is_lending = False
    if not lenders and table.check.call is None:
        # The slots beyond `max_slots` end. The numbers of those that stay are below it again.
        for slot in [slot for slot in table.slots.values() if table.is_extra(slot) and not slot.is_retired]:
            if not slot.is_dying:
                if slot.in_flight:
                    table.actions.append(TakeBack(slot))
                moves.retire(table, slot)
    rebalance(table)
    if not (lenders or any(map(table.is_extra, table.slots.values()))):
        table.is_lending = False
        table.lent = 0


def rebalance(table: SlotTable) -> None:
    """Let as many slots take calls as may run calls, those left out whose calls wait. All others are parked."""
    room = table.max_slots + table.extra
    ending = 0
    spare: list[SlotRecord] = []
    busy: list[SlotRecord] = []
    for slot in table.slots.values():
        if slot.is_lending:
            slot.blocked &= ~PARKED
        elif slot.in_flight:
            room -= 1
            busy.append(slot)
        elif slot.blocked & (RETIRED | DYING):
            ending += 1
        else:
            spare.append(slot)
    for slot in busy:
        # While too many calls run, none is queued behind them.
        if room < 0:
            _park(table, slot)
        else:
            slot.blocked &= ~PARKED
    spare.sort(key=attrgetter("number"))
    for slot in spare:
        if room > 0:
            slot.blocked &= ~PARKED
            room -= 1
        elif table.gives_gpus:
            # Other slots may need its GPUs, and a slot keeps its GPUs for its life.
            moves.retire(table, slot)
        else:
            _park(table, slot)
    # So the table may grow by `room` slots, once the slots that end have ended.
    table.lent = len(table.slots) - table.max_slots - table.extra + max(0, room - ending)


def _park(table: SlotTable, slot: SlotRecord) -> None:
    if not slot.blocked & PARKED:
        slot.blocked |= PARKED
        if len(slot.in_flight) > 1:
            table.actions.append(TakeBack(slot))
