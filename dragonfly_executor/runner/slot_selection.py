"""Picks the slot for the next call, and decides when to fork another slot."""

from __future__ import annotations

import os
from collections.abc import Callable

from dragonfly_executor.runner.slot_handle import Slot, Work
from dragonfly_executor.transport.loop import Loop

CHEAP = 0.001
"""Seconds of a call below which calls are queued in the slots."""
AHEAD = 0.004
"""Seconds of work that may be queued in a slot."""
MAX_AHEAD = 64
COST_WEIGHT = 0.1
FORK_PAUSE = 1.0
"""Seconds after a failed fork until the next attempt."""


class Lineup:
    """The living slots, as the dispatcher sees them.

    Args:
        loop: the agent's event loop.
        fork_slot: forks a slot; raises OSError if there is no room for it.
        on_no_room: called when a slot could not be forked.
        on_room: called when there may be room for a slot again.
    """

    def __init__(
        self, loop: Loop, fork_slot: Callable[[], Slot], on_no_room: Callable[[], None], on_room: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._fork_slot = fork_slot
        self._on_no_room = on_no_room
        self._on_room = on_room
        self.on_none: Callable[[OSError], object] = lambda error: None
        """Callback for a runner that has no slot and could not fork one."""
        self.slots: dict[int, Slot] = {}
        """Slots by process id."""
        self.max_slots = 1
        self.cost: float | None = None
        """Seconds that calls took recently; None before the first."""
        self._no_fork_before = 0.0
        self.extra = 0
        """Slots beyond `max_slots`, as a replacement for slots that are busy with an idle check."""

    def learn_cost(self, seconds: float) -> None:
        """Update the average cost by a call that took this many seconds."""
        self.cost = seconds if self.cost is None else self.cost + COST_WEIGHT * (seconds - self.cost)

    # -- which slot ---------------------------------------------------------------------------------------------------

    def best_for(self, work: Work) -> Slot | None:
        """Return an idle slot, or the slot with the fewest calls that takes another, or None."""
        best: Slot | None = None
        for slot in self.slots.values():
            if slot.retired or slot.kill_reason is not None:
                continue
            if not slot.in_flight:
                return slot
            if (
                slot.ready
                and not (slot.stuck or slot.is_checking)
                and (best is None or len(slot.in_flight) < len(best.in_flight))
            ):
                best = slot
        if best is None or work.is_large or self.may_grow() or len(best.in_flight) >= self._depth():
            return None
        # A large payload needs the slot's stream to itself until it is transferred.
        return None if best.in_flight[-1].is_large else best

    def _depth(self) -> int:
        """Return the number of calls that a slot may have, the running one included."""
        if self.cost is None or self.cost >= CHEAP:
            return 1
        return 1 + min(MAX_AHEAD, int(AHEAD / max(self.cost, 1e-6)))

    def uneven(self) -> tuple[Slot, Slot] | None:
        """Return the slot with the most queued calls and an idle slot; None if there are no such two."""
        idle = next((slot for slot in self.slots.values() if slot.is_idle), None)
        if idle is None:
            return None
        fullest = max(self.slots.values(), key=lambda slot: len(slot.in_flight))
        return None if len(fullest.in_flight) < 2 or fullest.retired else (fullest, idle)

    # -- another slot -------------------------------------------------------------------------------------------------

    def may_grow(self) -> bool:
        """Return True if the limit on slots allows another."""
        return len(self.slots) < self.max_slots + self.extra

    @property
    def is_full(self) -> bool:
        """Return True if there are more slots than may run calls at once."""
        return len(self.slots) > self.max_slots

    @property
    def has_room(self) -> bool:
        """Return True unless a fork has failed within the last `FORK_PAUSE` seconds."""
        return self._loop.time() >= self._no_fork_before

    def grow(self) -> Slot | None:
        """Fork another slot if the limit allows one and there is room for it. Return None if not."""
        if not self.may_grow() or not self.has_room:
            return None
        try:
            slot = self._fork_slot()
        except OSError as error:
            self._could_not_fork(error)
            return None
        self.slots[slot.pid] = slot
        return slot

    def _could_not_fork(self, error: OSError) -> None:
        """Handle a failed fork: report it, and schedule a retry. The existing slots go on without another."""
        if not self.slots:
            self.on_none(error)
            return
        if not self._no_fork_before:
            # Log this once, because the fork is retried each second from now on.
            os.write(2, f"dragonfly runner: no room for another slot, only for {len(self.slots)}: {error}\n".encode())
        self._no_fork_before = self._loop.time() + FORK_PAUSE
        self._loop.call_later(FORK_PAUSE, self._on_room)
        self._on_no_room()
