"""The runners of a pool: the table, and its sums over all kinds.

Sums and orders are updated as calls come and go, so no event visits runners that it does not concern.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from dragonfly_executor.core.calls import DEFAULT_KIND, Call, CallState
from dragonfly_executor.core.least_loaded import LeastLoaded
from dragonfly_executor.core.runner import Runner, RunnerState
from dragonfly_executor.core.runner_group import RunnerGroup
from dragonfly_executor.core.scaling import cost_after, cost_of_stuck
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final, TypeAlias

__all__ = ["Row", "Runner", "RunnerState", "RunnerTable"]

Row: TypeAlias = tuple[int, RunnerState, int, int, int]
"""A runner's row in `stats`: id, state, slots, calls in flight, calls that ended there."""

TRIPS: Final = 4
"""Number of latest round-trip measurements whose minimum counts."""


class RunnerTable:
    """All runners that exist.

    Attributes:
        runners: by id.
        groups: by kind, its runners. The group of a kind stays once it was there.
        booting: runners that boot, oldest boot first.
        up: number of runners that are up.
        slots, busy, in_flight: sums over runners that are up: slots, slots with a call, calls.
        idle: number of runners without a call that are not being asked whether they may go.
        retiring: runners that are up and take no more calls, because they are beyond `max`.
        retired: without a call, those of the runners that take no more calls.
        rows: the row of each runner, by id. A copy takes microseconds, even with thousands of runners.
    """

    def __init__(self, *, single_use: bool, packs: bool = False) -> None:
        self.runners: dict[int, Runner] = {}
        self.default = RunnerGroup(DEFAULT_KIND, single_use=single_use, packs=packs)
        self.groups = {DEFAULT_KIND: self.default}
        # An ordered dict, because the last entry is needed: a plain dict walks over all deleted entries there.
        self.booting: OrderedDict[int, Runner] = OrderedDict()
        self.up = 0
        self.slots = 0
        self.busy = 0
        self.in_flight = 0
        self.idle = 0
        self.retiring: dict[int, Runner] = {}
        self.retired: dict[int, Runner] = {}
        self.rows: dict[int, Row] = {}
        self._single_use: Final = single_use
        self._packs: Final = packs
        self._least_loaded: Final = LeastLoaded()

    def group_of(self, kind: str) -> RunnerGroup:
        """Return the group of a kind."""
        group = self.groups.get(kind)
        if group is None:
            group = self.groups[kind] = RunnerGroup(kind, single_use=self._single_use, packs=self._packs)
        return group

    def next_boot(self) -> float | None:
        """Return when the first pause after failed boots ends, in monotonic seconds; None if there is no pause."""
        pauses = [group.back_off.until for group in self.groups.values() if group.back_off.until is not None]
        return min(pauses, default=None)

    def add(self, runner_id: int, kind: str) -> None:
        """Add a booting runner."""
        runner = Runner(runner_id, kind)
        group = self.group_of(kind)
        self.runners[runner_id] = self.booting[runner_id] = runner
        group.runners[runner_id] = group.booting[runner_id] = runner
        self.note(runner)

    def came_up(self, runner: Runner, slots: int, now: float) -> None:
        """Mark a booting runner as up and idle, with this many slots."""
        group = self.groups[runner.kind]
        del self.booting[runner.id], group.booting[runner.id]
        runner.state = RunnerState.UP
        runner.slots = 1 if self._single_use else max(1, slots)
        runner.idle_since = now
        self.up += 1
        group.up += 1
        self.slots += runner.slots
        group.slots += runner.slots
        group.most_slots = max(group.most_slots, runner.slots)
        group.idle[runner.id] = runner
        self.idle += 1
        self._changed(runner, group)

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
        group = self.groups[runner.kind]
        if runner.state is RunnerState.UP:
            load = len(runner.in_flight)
            busy = min(load, runner.slots)
            for each in (self, group):
                each.up -= 1
                each.slots -= runner.slots
                each.in_flight -= load
                each.busy -= busy
        group.unlist(runner)
        self.idle -= runner.id in group.idle
        places = (self.booting, self.retiring, self.retired)
        for place in (*places, group.booting, group.idle, group.idle_check_pending, group.yielding):
            place.pop(runner.id, None)

    def forget(self, runner: Runner) -> None:
        """Remove a runner that no longer exists."""
        self.stop(runner)
        del self.runners[runner.id]
        del self.groups[runner.kind].runners[runner.id]
        del self.rows[runner.id]

    def note(self, runner: Runner) -> None:
        """Update the row of a runner."""
        self.rows[runner.id] = runner.id, runner.state, runner.slots, len(runner.in_flight), runner.done

    # -- calls ---------------------------------------------------------------------------------------------------------

    def place(self, runner: Runner, calls: Sequence[Call]) -> None:
        """Place calls on a runner."""
        in_flight, runner_id = runner.in_flight, runner.id
        before = len(in_flight)
        sent = CallState.SENT
        for call in calls:
            call.state = sent
            call.runner = runner_id
            in_flight[call.id] = call
        group = self.groups[runner.kind]
        if not before:
            if group.idle.pop(runner_id, None) is not None:
                self.idle -= 1
            else:
                group.idle_check_pending.pop(runner_id, None)
        self._count(runner, before, group)

    def left(self, runner: Runner, before: int, now: float) -> None:
        """Update the counts after calls have left a runner that had `before` calls."""
        if not runner.in_flight and before:
            self.rest(runner, now)
        self._count(runner, before, self.groups[runner.kind])

    def rest(self, runner: Runner, now: float) -> None:
        """Mark the runner as idle from `now` on."""
        group = self.groups[runner.kind]
        if group.idle_check_pending:
            group.idle_check_pending.pop(runner.id, None)
        runner.idle_since = now
        group.idle[runner.id] = runner
        self.idle += 1
        if runner.retiring:
            self.retired[runner.id] = runner

    def ask(self, runner: Runner) -> None:
        """Mark an idle runner as being asked whether it may go."""
        group = self.groups[runner.kind]
        del group.idle[runner.id]
        self.idle -= 1
        group.idle_check_pending[runner.id] = runner

    def _count(self, runner: Runner, before: int, group: RunnerGroup) -> None:
        load, slots = len(runner.in_flight), runner.slots
        change = load - before
        self.in_flight += change
        group.in_flight += change
        # `min` takes longer than this, and each result passes here.
        change = (load if load < slots else slots) - (before if before < slots else slots)  # noqa: FURB136
        if change:
            self.busy += change
            group.busy += change
        self._changed(runner, group)

    def _changed(self, runner: Runner, group: RunnerGroup) -> None:
        self.rows[runner.id] = runner.id, runner.state, runner.slots, len(runner.in_flight), runner.done
        if self._least_loaded.is_kept:
            self._least_loaded.changed(runner)
        if group.least_loaded.is_kept:
            group.least_loaded.changed(runner)
        group.list(runner)

    # -- measurements of a runner --------------------------------------------------------------------------------------

    def ran(self, runner: Runner, seconds: float, count: int) -> None:
        """Record that `count` calls have run on the runner for `seconds` in total."""
        runner.done += count
        runner.is_short = False
        runner.cost = cost_after(runner.cost, seconds, count)

    def stuck(self, runner: Runner) -> None:
        """Record that the runner has returned calls: they were stuck behind a long one, or a slot could not start."""
        runner.is_short = len(runner.in_flight) < runner.slots
        runner.cost = cost_of_stuck(runner.cost, runner.round_trip)

    def answered_in(self, runner: Runner, seconds: float) -> None:
        """Record a round-trip time to the runner, in seconds."""
        # Take the minimum: one delayed ping says nothing of the connection, and would send seconds of work ahead.
        runner.trips = (*runner.trips[1 - TRIPS :], seconds)
        runner.round_trip = min(runner.trips)
        self.groups[runner.kind].list(runner)

    # -- a smaller pool, and room for another kind ---------------------------------------------------------------------

    def retire(self, count: int) -> None:
        """Mark the `count` least-loaded runners as retiring, and let all other runners take calls again."""
        while len(self.retiring) > count:
            self._serve_again(self.retiring.popitem()[1])
        if len(self.retiring) < count:
            for runner in self._least_loaded.take(count - len(self.retiring), self.runners):
                self._retire(runner, self.retiring)

    def make_yield(self, group: RunnerGroup) -> None:
        """Have the least-loaded runner of a kind take no more calls, because another kind needs its room."""
        for runner in group.least_loaded.take(1, group.runners):
            self._retire(runner, group.yielding)

    def end_yield(self, group: RunnerGroup) -> None:
        """Let a runner that yields take calls again."""
        self._serve_again(group.yielding.popitem()[1])

    def _retire(self, runner: Runner, place: dict[int, Runner]) -> None:
        runner.retiring = True
        place[runner.id] = runner
        self.groups[runner.kind].unlist(runner)
        if not runner.in_flight:
            self.retired[runner.id] = runner

    def _serve_again(self, runner: Runner) -> None:
        self.retired.pop(runner.id, None)
        runner.retiring = False
        self._changed(runner, self.groups[runner.kind])
