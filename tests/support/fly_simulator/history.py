"""Everything that happened, and what is checked about it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.support.fly_simulator.calls import Call, Reply
from tests.support.fly_simulator.state import ENDED, Machine, World

BILLED = frozenset({"started", "stopping", "restarting"})
"""Billing is per second in `started` (D); a machine that is being stopped still runs (I)."""


class History:
    """What was asked for, and what became of the machines.

    Machines that a test added itself (the parent's own) do not count.

    Args:
        changed: called when a request has come, and when it is answered.
    """

    def __init__(self, world: World, changed: Callable[[], None] = lambda: None) -> None:
        self._world = world
        self._changed = changed
        self.calls: list[Call] = []

    def came(self, call: Call) -> None:
        """There is a request."""
        self.calls.append(call)
        self._changed()

    def answered(self, call: Call, reply: Reply) -> None:
        """Its sender is told."""
        call.reply = reply
        self._changed()

    def of(self, *actions: str) -> list[Call]:
        """The requests of these kinds, in order."""
        return [call for call in self.calls if call.action in actions]

    def statuses(self, *actions: str) -> list[int | None]:
        """What these were answered; None for a cut connection."""
        return [call.reply.status if call.reply else None for call in self.of(*actions)]

    # -- machines ------------------------------------------------------------------------------------------------------

    @property
    def left(self) -> list[Machine]:
        """Machines that have not ended."""
        return self._world.alive

    def most_at_once(self) -> int:
        """How many machines existed at the same time, at most: from being created to being destroyed."""
        steps: list[tuple[float, int]] = []
        for machine in self._world.booted:
            steps.append((machine.created_at, 1))
            steps += [(at, -1) for at, state in machine.changes if state in ENDED]
        # Whoever goes at the same moment as another one comes makes room first.
        count = most = 0
        for _, step in sorted(steps):
            count += step
            most = max(most, count)
        return most

    def billed_seconds(self, machine: Machine, since: float = 0.0) -> float:
        """Seconds in which it cost money, after the moment `since`."""
        ends = [at for at, _ in machine.changes[1:]] + [self._world.now()]
        return sum(
            max(0.0, end - max(at, since))
            for (at, state), end in zip(machine.changes, ends, strict=True)
            if state in BILLED
        )

    def billed(self, since: float = 0.0) -> Mapping[str, float]:
        """Seconds that cost money after a moment (say the parent's end), by machine; only those that did."""
        found = {machine.id: self.billed_seconds(machine, since) for machine in self._world.booted}
        return {machine_id: seconds for machine_id, seconds in found.items() if seconds > 0}

    def billed_past(self, lease_end: Callable[[Machine], float]) -> Mapping[str, float]:
        """Seconds that machines cost after the moment at which they should have ended at the latest."""
        found = {machine.id: self.billed_seconds(machine, lease_end(machine)) for machine in self._world.booted}
        return {machine_id: seconds for machine_id, seconds in found.items() if seconds > 0}

    def would_be_billed(self) -> list[Machine]:
        """Machines that cost money as things stand, or will once they have started."""
        return [machine for machine in self._world.alive if machine.state in BILLED | {"created", "starting"}]
