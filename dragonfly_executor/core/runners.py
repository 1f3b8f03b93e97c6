"""The runners of a pool by load: the table, its sums, and the choice of the runner for the next call.

Sums and orders are updated as calls come and go, so no event visits runners that it does not concern.
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
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final, TypeAlias

__all__ = ["Row", "Runner", "RunnerState", "RunnerTable"]

Room: TypeAlias = list[tuple[int, int]]
Row: TypeAlias = tuple[int, RunnerState, int, int, int]
"""A runner's row in `stats`: id, state, slots, calls in flight, calls that ended there."""

TRIPS: Final = 4
"""Number of latest round-trip measurements whose minimum counts."""


class RunnerTable:
    """All runners that exist.

    Attributes:
        runners: by id.
        booting: runners that boot, oldest boot first.
        up: number of runners that are up.
        slots, busy, in_flight: sums over runners that are up: slots, slots with a call, calls.
        most_slots: the largest number of slots that a runner has had.
        idle: runners without a call, longest idle first.
        idle_check_pending: runners without a call that were asked whether they may go.
        retiring: runners that are up and take no more calls.
        retired: retiring runners without a call.
        rows: the row of each runner, by id. A copy takes microseconds, even with thousands of runners.
    """

    def __init__(self, *, single_use: bool) -> None:
        self.runners: dict[int, Runner] = {}
        # Ordered dicts if the first or last entry is needed: a plain dict walks over all deleted entries there.
        self.booting: OrderedDict[int, Runner] = OrderedDict()
        self.up = 0
        self.slots = 0
        self.busy = 0
        self.in_flight = 0
        self.most_slots = 0
        self.idle: OrderedDict[int, Runner] = OrderedDict()
        self.idle_check_pending: dict[int, Runner] = {}
        self.retiring: dict[int, Runner] = {}
        self.retired: dict[int, Runner] = {}
        self.rows: dict[int, Row] = {}
        self._single_use: Final = single_use
        # Heaps of (calls in flight, id): runners with a free slot, and runners with prefetch credit left. An entry
        # whose load is no longer the runner's is skipped.
        self._free: Room = []
        self._spare: Room = []
        self._lightest: Final = Lightest()

    @property
    def ahead(self) -> int:
        """Return the number of calls in flight beyond the number of slots."""
        return max(0, self.in_flight - self.slots)

    def add(self, runner_id: int) -> None:
        """Add a booting runner."""
        self.runners[runner_id] = self.booting[runner_id] = runner = Runner(runner_id)
        self.note(runner)

    def came_up(self, runner: Runner, slots: int, now: float) -> None:
        """Mark a booting runner as up and idle, with this many slots."""
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
        """Stop counting a runner's capacity and calls; keep it until it is gone."""
        self._discount(runner)
        runner.in_flight.clear()
        runner.state = RunnerState.STOPPING
        self.note(runner)

    def leave(self, runner: Runner) -> None:
        """Stop counting a runner's capacity; keep it until its calls end."""
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
        for group in (self.booting, self.idle, self.idle_check_pending, self.retiring, self.retired):
            group.pop(runner.id, None)

    def forget(self, runner: Runner) -> None:
        """Remove a runner that no longer exists."""
        self.stop(runner)
        del self.runners[runner.id]
        del self.rows[runner.id]

    def note(self, runner: Runner) -> None:
        """Update the row of a runner."""
        self.rows[runner.id] = runner.id, runner.state, runner.slots, len(runner.in_flight), runner.done

    # -- calls ---------------------------------------------------------------------------------------------------------

    def pick(self, ahead: bool) -> tuple[Runner, int] | None:
        """Return the least-loaded runner with a free slot, and how many calls to place on it at once.

        The number is chosen so that no other runner has fewer calls before all are placed.

        The caller must `place` calls on the returned runner.

        Args:
            ahead: pick a runner with prefetch credit instead of a free slot.

        Returns:
            None if no runner has room.
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
        """Place calls on a runner."""
        in_flight, runner_id = runner.in_flight, runner.id
        before = len(in_flight)
        sent = CallState.SENT
        for call in calls:
            call.state = sent
            call.runner = runner_id
            in_flight[call.id] = call
        if not before:
            self.idle.pop(runner_id, None)
            if self.idle_check_pending:
                self.idle_check_pending.pop(runner_id, None)
        self._count(runner, before)

    def left(self, runner: Runner, before: int, now: float) -> None:
        """Update the counts after calls have left a runner that had `before` calls."""
        if not runner.in_flight and before:
            self.rest(runner, now)
        self._count(runner, before)

    def rest(self, runner: Runner, now: float) -> None:
        """Mark the runner as idle from `now` on."""
        if self.idle_check_pending:
            self.idle_check_pending.pop(runner.id, None)
        runner.idle_since = now
        self.idle[runner.id] = runner
        if runner.retiring:
            self.retired[runner.id] = runner

    def ask(self, runner: Runner) -> None:
        """Mark an idle runner as being asked whether it may go."""
        del self.idle[runner.id]
        self.idle_check_pending[runner.id] = runner

    def _count(self, runner: Runner, before: int) -> None:
        load, slots = len(runner.in_flight), runner.slots
        self.in_flight += load - before
        # `min` takes longer than this, and each result passes here.
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
            # Compute it only if all slots are taken, so that calls which come one by one do not pay for it.
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

    # -- measurements of a runner --------------------------------------------------------------------------------------

    def ran(self, runner: Runner, seconds: float, count: int) -> None:
        """Record that `count` calls have run on the runner for `seconds` in total."""
        runner.done += count
        runner.cost = cost_after(runner.cost, seconds, count)

    def stuck(self, runner: Runner) -> None:
        """Record that calls on the runner were stuck behind a long one."""
        runner.cost = cost_of_stuck(runner.cost, runner.round_trip)

    def answered_in(self, runner: Runner, seconds: float) -> None:
        """Record a round-trip time to the runner, in seconds."""
        # Take the minimum: one delayed ping says nothing of the connection, and would send seconds of work ahead.
        runner.trips = (*runner.trips[1 - TRIPS :], seconds)
        runner.round_trip = min(runner.trips)
        self._list(runner)

    # -- a smaller pool ------------------------------------------------------------------------------------------------

    def retire(self, count: int) -> None:
        """Mark the `count` least-loaded runners as retiring, and let all other runners take calls again."""
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
