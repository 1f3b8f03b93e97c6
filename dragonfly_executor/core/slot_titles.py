"""Decides which running calls are shown in the titles of their slots.

Setting and removing a title takes the agent a fifth of its time for a call. So short calls, which end before `ps` can
show them, have no title.
"""

from __future__ import annotations

from dragonfly_executor.core.slot_actions import ShowCall
from dragonfly_executor.core.slot_records import NEVER
from dragonfly_executor.core.slot_state import SlotTable
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

SHOWN_AFTER: Final = 0.1
"""Seconds after which the title of a slot shows its running call."""


def expect_title(table: SlotTable, since: float) -> None:
    """Have `show_calls` called once a call that is first in its slot since that time has run for `SHOWN_AFTER`."""
    show_at = since + SHOWN_AFTER
    if show_at < table.show_at:
        table.show_at = show_at
        table.wake(show_at)


def show_calls(table: SlotTable, now: float) -> None:
    """Show the calls that were reported as started, and that have run for `SHOWN_AFTER` seconds."""
    table.show_at = NEVER
    for slot in table.slots.values():
        if not slot.in_flight:
            continue
        first = slot.in_flight[0]
        if not first.is_reported or first.is_shown or first.is_check:
            continue
        show_at = slot.since + SHOWN_AFTER
        if show_at > now:
            table.show_at = min(table.show_at, show_at)
        else:
            first.is_shown = True
            table.actions.append(ShowCall(slot, first))
