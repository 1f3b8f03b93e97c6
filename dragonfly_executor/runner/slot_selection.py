"""The slots of a runner: which of them takes the next call, and when there is to be another."""

from __future__ import annotations

import os
from collections.abc import Callable

from dragonfly_executor.runner.slot_handle import Slot, Work
from dragonfly_executor.transport.loop import Loop

CHEAP = 0.001
"""Calls that take less than this are queued in the slots."""
AHEAD = 0.004
"""Seconds of work that are queued in a slot."""
MAX_AHEAD = 64
COST_WEIGHT = 0.1
FORK_PAUSE = 1.0
"""Seconds until another slot is tried, where there was no room for one."""


class Lineup:
    """The slots that live, as those who share out calls see them.

    Args:
        loop: the agent's.
        fork_slot: starts a slot; OSError where there is no room for one.
        on_no_room: called when a slot could not be forked.
        on_room: called when there may be room for it.
    """

    def __init__(
        self, loop: Loop, fork_slot: Callable[[], Slot], on_no_room: Callable[[], None], on_room: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._fork_slot = fork_slot
        self._on_no_room = on_no_room
        self._on_room = on_room
        self.on_none: Callable[[OSError], object] = lambda error: None
        """Called when there is no slot, and none could be forked."""
        self.slots: dict[int, Slot] = {}
        """By process id."""
        self.max_slots = 1
        self.cost: float | None = None
        """Seconds that calls took lately; None before the first."""
        self._no_fork_before = 0.0
        self.extra = 0
        """Slots beyond `max_slots`, in the place of those that an idle check keeps from running calls."""

    def learn_cost(self, seconds: float) -> None:
        """A call took so long."""
        self.cost = seconds if self.cost is None else self.cost + COST_WEIGHT * (seconds - self.cost)

    # -- which slot ---------------------------------------------------------------------------------------------------

    def best_for(self, work: Work) -> Slot | None:
        """An idle slot; else the one with the fewest calls that still takes one."""
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
        # A large payload needs the stream to itself until it has gone over.
        return None if best.in_flight[-1].is_large else best

    def _depth(self) -> int:
        """How many calls a slot may have, the running one included."""
        if self.cost is None or self.cost >= CHEAP:
            return 1
        return 1 + min(MAX_AHEAD, int(AHEAD / max(self.cost, 1e-6)))

    def uneven(self) -> tuple[Slot, Slot] | None:
        """The slot in which most calls wait, and one that is idle meanwhile, if there are such two."""
        idle = next((slot for slot in self.slots.values() if slot.is_idle), None)
        if idle is None:
            return None
        fullest = max(self.slots.values(), key=lambda slot: len(slot.in_flight))
        return None if len(fullest.in_flight) < 2 or fullest.retired else (fullest, idle)

    # -- another slot -------------------------------------------------------------------------------------------------

    def may_grow(self) -> bool:
        """Whether there may be another slot, if there is room for it."""
        return len(self.slots) < self.max_slots + self.extra

    @property
    def is_full(self) -> bool:
        """Whether there are more slots than may run calls at once."""
        return len(self.slots) > self.max_slots

    @property
    def has_room(self) -> bool:
        """Whether the last try to fork a slot was no failure, or some time ago."""
        return self._loop.time() >= self._no_fork_before

    def grow(self) -> Slot | None:
        """Fork another slot, if there may be one and there is room for it."""
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
        """This machine has no room for another process, or its descriptors: the slots that are there go on without."""
        if not self.slots:
            self.on_none(error)
            return
        if not self._no_fork_before:
            # Once: it is tried each second from now on.
            os.write(2, f"dragonfly runner: no room for another slot, only for {len(self.slots)}: {error}\n".encode())
        self._no_fork_before = self._loop.time() + FORK_PAUSE
        self._loop.call_later(FORK_PAUSE, self._on_room)
        self._on_no_room()
