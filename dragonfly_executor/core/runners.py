"""The runners of a pool: what they are, what they have, and which of them takes the next call.

Sums and orders are kept up to date as calls come and go, so that no event looks at runners that it does not concern.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from dragonfly_executor.core.call_queue import SLACK
from dragonfly_executor.core.calls import Call, CallState
from dragonfly_executor.core.least_loaded import Lightest
from dragonfly_executor.core.runner import UP, Runner, RunnerState
from dragonfly_executor.core.scaling import cost_after, cost_of_stuck, prefetch

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import Final, TypeAlias

__all__ = ["Roster", "Row", "Runner", "RunnerState"]

Room: TypeAlias = list[tuple[int, int]]
Row: TypeAlias = tuple[int, RunnerState, int, int, int]
"""What is told of a runner: id, state, slots, calls in flight, calls that ended there."""

TRIPS: Final = 4
"""Round trips, of those measured last, of which the least counts."""


class Roster:
    """All runners that exist.

    Attributes:
        runners: by id.
        booting: those that boot, first boot first.
        up: how many are up.
        slots, busy, in_flight: over those that are up: their slots, the slots that have a call, their calls.
        most_slots: the largest number of slots that a runner has had.
        idle: those without a call, idle for the longest time first.
        asked: those without a call that were asked whether they may go.
        retiring: those that are up and take no more calls.
        retired: those of them that have none left.
        rows: of each runner what is told of it, by id. Copying this takes microseconds, also with thousands of them.
    """

    def __init__(self, *, single_use: bool) -> None:
        self.runners: dict[int, Runner] = {}
        # Ordered ones where the first or the last is looked for: a plain dict passes over all that were deleted there.
        self.booting: OrderedDict[int, Runner] = OrderedDict()
        self.up = 0
        self.slots = 0
        self.busy = 0
        self.in_flight = 0
        self.most_slots = 0
        self.idle: OrderedDict[int, Runner] = OrderedDict()
        self.asked: dict[int, Runner] = {}
        self.retiring: dict[int, Runner] = {}
        self.retired: dict[int, Runner] = {}
        self.rows: dict[int, Row] = {}
        self._single_use: Final = single_use
        # Heaps of (calls in flight, id) of runners with a free slot, and with credit left beyond their slots. An entry
        # whose number no longer is the runner's is passed over.
        self._free: Room = []
        self._spare: Room = []
        self._lightest: Final = Lightest()

    @property
    def ahead(self) -> int:
        """Calls on runners beyond what their slots run, less what free slots could take of them."""
        return max(0, self.in_flight - self.slots)

    def add(self, runner_id: int) -> None:
        """A runner boots."""
        self.runners[runner_id] = self.booting[runner_id] = runner = Runner(runner_id)
        self.note(runner)

    def came_up(self, runner: Runner, slots: int, now: float) -> None:
        """A boot succeeded."""
        del self.booting[runner.id]
        runner.state = RunnerState.UP
        runner.slots = 1 if self._single_use else max(1, slots)
        runner.idle_since = now
        self.up += 1
        self.slots += runner.slots
        self.most_slots = max(self.most_slots, runner.slots)
        self.idle[runner.id] = runner
        self._changed(runner)

    def stop(self, runner: Runner) -> None:
        """Nothing of this runner counts any more but that it exists."""
        self._discount(runner)
        runner.in_flight.clear()
        runner.state = RunnerState.STOPPING
        self.note(runner)

    def leave(self, runner: Runner) -> None:
        """Nothing of this runner counts any more but that it exists, and the calls that it ends."""
        self._discount(runner)
        runner.retiring = False
        runner.state = RunnerState.LEAVING
        self.note(runner)

    def _discount(self, runner: Runner) -> None:
        if runner.state is RunnerState.UP:
            load = len(runner.in_flight)
            self.up -= 1
            self.slots -= runner.slots
            self.in_flight -= load
            self.busy -= min(load, runner.slots)
        for group in (self.booting, self.idle, self.asked, self.retiring, self.retired):
            group.pop(runner.id, None)

    def forget(self, runner: Runner) -> None:
        """The runner no longer exists."""
        self.stop(runner)
        del self.runners[runner.id]
        del self.rows[runner.id]

    def note(self, runner: Runner) -> None:
        """What is told of the runner has changed."""
        self.rows[runner.id] = runner.id, runner.state, runner.slots, len(runner.in_flight), runner.done

    # -- calls ---------------------------------------------------------------------------------------------------------

    def pick(self, ahead: bool) -> tuple[Runner, int] | None:
        """The least-loaded runner with a free slot, and how many calls it may take before another one has less.

        With `ahead` it is one with credit beyond its slots. What is picked must be given calls, with `place`.
        """
        room = self._spare if ahead else self._free
        while room:
            load, runner_id = heappop(room)
            runner = self.runners.get(runner_id)
            if runner is None or len(runner.in_flight) != load or runner.state is not UP or runner.retiring:
                continue
            limit = runner.slots + runner.prefetch if ahead else runner.slots
            if load >= limit:
                continue
            if room and room[0][0] < limit:
                limit = room[0][0] + 1
            return runner, limit - load if limit > load else 1
        return None

    def place(self, runner: Runner, calls: Sequence[Call]) -> None:
        """Put calls on a runner."""
        in_flight, runner_id = runner.in_flight, runner.id
        before = len(in_flight)
        sent = CallState.SENT
        for call in calls:
            call.state = sent
            call.runner = runner_id
            in_flight[call.id] = call
        if not before:
            self.idle.pop(runner_id, None)
            if self.asked:
                self.asked.pop(runner_id, None)
        self._count(runner, before)

    def left(self, runner: Runner, before: int, now: float) -> None:
        """Calls have left a runner that had `before` of them."""
        if not runner.in_flight and before:
            self.rest(runner, now)
        self._count(runner, before)

    def rest(self, runner: Runner, now: float) -> None:
        """The runner is idle, from now on."""
        if self.asked:
            self.asked.pop(runner.id, None)
        runner.idle_since = now
        self.idle[runner.id] = runner
        if runner.retiring:
            self.retired[runner.id] = runner

    def ask(self, runner: Runner) -> None:
        """The runner is being asked whether it may go."""
        del self.idle[runner.id]
        self.asked[runner.id] = runner

    def _count(self, runner: Runner, before: int) -> None:
        load, slots = len(runner.in_flight), runner.slots
        self.in_flight += load - before
        # `min` takes longer than this, and each result comes through here.
        self.busy += (load if load < slots else slots) - (before if before < slots else slots)  # noqa: FURB136
        self._changed(runner)

    def _changed(self, runner: Runner) -> None:
        self.rows[runner.id] = runner.id, runner.state, runner.slots, len(runner.in_flight), runner.done
        if self._lightest.is_kept:
            self._lightest.changed(runner)
        self._list(runner)

    def _list(self, runner: Runner) -> None:
        load = len(runner.in_flight)
        if load < runner.slots:
            room = self._free
        else:
            # Only here does it matter, so that calls which come one by one do not pay for it.
            runner.prefetch = 0 if self._single_use else prefetch(runner.cost, runner.slots, runner.round_trip)
            if load >= runner.slots + runner.prefetch:
                return
            room = self._spare
        heappush(room, (load, runner.id))
        if len(room) > 4 * len(self.runners) + SLACK:
            room[:] = {entry for entry in room if self._is_current(*entry)}
            heapify(room)

    def _is_current(self, load: int, runner_id: int) -> bool:
        runner = self.runners.get(runner_id)
        return runner is not None and runner.state is RunnerState.UP and len(runner.in_flight) == load

    # -- what is learnt about a runner ---------------------------------------------------------------------------------

    def ran(self, runner: Runner, seconds: float, count: int) -> None:
        """Calls have run there for so many seconds together."""
        runner.done += count
        runner.cost = cost_after(runner.cost, seconds, count)

    def stuck(self, runner: Runner) -> None:
        """Calls there were stuck behind a long one."""
        runner.cost = cost_of_stuck(runner.cost, runner.round_trip)

    def answered_in(self, runner: Runner, seconds: float) -> None:
        """A round trip to it took so many seconds."""
        # The least: one ping that was held up on its way says nothing of the way, and would send seconds of work ahead.
        runner.trips = (*runner.trips[1 - TRIPS :], seconds)
        runner.round_trip = min(runner.trips)
        self._list(runner)

    # -- a smaller pool ------------------------------------------------------------------------------------------------

    def retire(self, count: int) -> None:
        """Have so many runners take no more calls, those with the fewest first, and all others take them again."""
        while len(self.retiring) > count:
            runner = self.retiring.popitem()[1]
            self.retired.pop(runner.id, None)
            runner.retiring = False
            self._changed(runner)
        if len(self.retiring) < count:
            for runner in self._lightest.take(count - len(self.retiring), self.runners):
                runner.retiring = True
                self.retiring[runner.id] = runner
                if not runner.in_flight:
                    self.retired[runner.id] = runner
