"""Gives the GPUs of a runner to calls that require some.

At first each slot has its usual share of the GPUs, and every call sees the share of its slot. With the first call that
requires GPUs, the runner begins to give them: such a call runs in a slot that has as many GPUs as it requires, and no
other slot has these. Calls that require none run in slots without GPUs.

A slot keeps its GPUs for its life, because libraries read the variable once. So a slot whose GPUs are needed elsewhere
is retired when it is idle, and another one is forked.
"""

from __future__ import annotations

from dragonfly_executor.core import slot_moves as moves
from dragonfly_executor.core.gpu_shares import pick, usual_share
from dragonfly_executor.core.slot_actions import Fork, TakeBack
from dragonfly_executor.core.slot_choice import may_fork, takes_more
from dragonfly_executor.core.slot_records import SlotCall, SlotRecord
from dragonfly_executor.core.slot_state import SlotTable, prefetch_depth
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def begin(table: SlotTable) -> None:
    """Give GPUs to calls from now on. Slots with their usual share end after the calls that they have begun."""
    table.gives_gpus = True
    for slot in table.slots.values():
        slot.gpus = frozenset(usual_share(table.gpus, slot.number, table.max_slots))
        if not slot.is_retired and not slot.is_dying:
            table.actions.append(TakeBack(slot))
            moves.retire(table, slot)


def choose_slot(table: SlotTable, call: SlotCall) -> SlotRecord | None:
    """Return an idle slot that has as many GPUs as the call requires; None if there is none.

    A call that requires no GPUs may also be queued in a slot without GPUs, if no slot is idle.
    """
    wanted = _wanted(table, call)
    home = table.homes.get(call.key) if call.key else None
    found = best = None
    is_other_idle = False
    for slot in table.slots.values():
        if slot.blocked:
            continue
        suits = len(slot.gpus or ()) == wanted
        if not slot.in_flight:
            if not suits:
                is_other_idle = True
            elif found is None or slot.pid == home:
                found = slot
        elif suits and takes_more(table, slot) and (best is None or len(slot.in_flight) < len(best.in_flight)):
            best = slot
    if found is not None or wanted or best is None or call.is_large or table.may_grow or is_other_idle:
        return found
    return best if len(best.in_flight) <= prefetch_depth(table.cost) else None


def make_slot(table: SlotTable, call: SlotCall, now: float) -> bool:
    """Fork slots for the calls that no slot takes, the first of which is `call`. If idle slots are in the way of such a
    slot, retire one.

    Returns:
        True if a slot is forked.
    """
    if not table.gives_gpus:
        return table.may_grow and _fork(table, now)
    wanted = _wanted(table, call)
    free = set(range(table.gpus))
    soon: set[int] = set()
    shared: set[int] = set()
    idle: list[SlotRecord] = []
    for slot in table.slots.values():
        if slot.is_lending and not slot.is_dying:
            continue
        held = slot.gpus or frozenset()
        free -= held
        if not slot.in_flight or slot.is_dying:
            soon |= held
            if not slot.blocked:
                idle.append(slot)
        elif slot.is_retired and not any(each.gpus for each in slot.in_flight):
            shared |= held
    if not table.may_grow or (wanted > len(free) and soon):
        # Each retired slot leads here again when it has ended.
        _retire_one(table, idle, needs_gpus=wanted > len(free))
        return False
    # A call that began before the runner gave GPUs to calls may run for long, and keeps seeing its share.
    gpus = free if wanted <= len(free) else free | shared
    return wanted <= len(gpus) and _fork(table, now, pick(gpus, wanted))


def _fork(table: SlotTable, now: float, gpus: frozenset[int] | None = None) -> bool:
    if may_fork(table, now):
        # No slot that starts is without a call, so each call that waits needs a slot of its own.
        count = 1 if table.gives_gpus else min(table.forks_left, table.room, len(table.waiting))
        table.actions.append(Fork(table.free_numbers(count), gpus))
        return True
    if not table.forks_left:
        table.wake(now)
    return False


def _wanted(table: SlotTable, call: SlotCall) -> int:
    # The backend may have said that the runner has more GPUs than the agent has found.
    return min(call.gpus, table.gpus)


def _retire_one(table: SlotTable, idle: Sequence[SlotRecord], *, needs_gpus: bool) -> None:
    """Retire an idle slot, unless another one ends soon anyway."""
    if any(slot.is_dying or (slot.is_retired and not slot.in_flight) for slot in table.slots.values()):
        return
    for slot in idle:
        if slot.gpus or not needs_gpus:
            moves.retire(table, slot)
            return
    if idle:
        moves.retire(table, idle[0])
