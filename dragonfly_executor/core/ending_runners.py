"""The runners of a group that drain soon: within the time that a boot takes."""

from __future__ import annotations

from dragonfly_executor.core.runner import Runner


class EndingRunners:
    """The runners of a group that are up and drain within a boot time. Their slots are not counted on any more.

    Attributes:
        runners: by id.
        slots: number of their slots.
        used_slots: number of slots of the runners in use. A runner is in use if it was sent a call within the last
            boot time before it came here, or since.
    """

    __slots__ = ("_used", "runners", "slots", "used_slots")

    def __init__(self) -> None:
        self.runners: dict[int, Runner] = {}
        self.slots = 0
        self.used_slots = 0
        self._used: set[int] = set()

    def add(self, runner: Runner, *, in_use: bool) -> None:
        """Add a runner."""
        self.runners[runner.id] = runner
        self.slots += runner.slots
        if in_use:
            self.use(runner)

    def use(self, runner: Runner) -> None:
        """Note that a runner is sent a call, if it is one of these."""
        if runner.id in self.runners and runner.id not in self._used:
            self._used.add(runner.id)
            self.used_slots += runner.slots

    def discard(self, runner: Runner) -> None:
        """Remove a runner, if it is one of these."""
        if self.runners.pop(runner.id, None) is not None:
            self.slots -= runner.slots
            if runner.id in self._used:
                self._used.remove(runner.id)
                self.used_slots -= runner.slots

    def calls(self, load: int, slots: int) -> int:
        """Return how many calls need a slot elsewhere once these runners drain.

        Calls that only run on, while no other call comes to their runner, need none.

        Args:
            load: number of slots that the calls of the whole group take.
            slots: number of slots of the whole group.
        """
        have_slots = min(load, slots)
        return min(self.used_slots, max(0, have_slots - (slots - self.slots)))
