"""The runners of a pool: the table, and its sums over all kinds.

Sums and orders are updated as calls come and go, so no event visits runners that it does not concern.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from dragonfly_executor.core.calls import Call, CallState
from dragonfly_executor.core.capacity import Capacity, Requirements
from dragonfly_executor.core.group_table import GroupTable
from dragonfly_executor.core.least_loaded import LeastLoaded
from dragonfly_executor.core.limits import TierLimits
from dragonfly_executor.core.placement_table import PlacementTable
from dragonfly_executor.core.runner import Runner, RunnerState
from dragonfly_executor.core.runner_group import RunnerGroup
from dragonfly_executor.core.scaling import cost_after, cost_of_stuck
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final, TypeAlias

__all__ = ["Row", "Runner", "RunnerState", "RunnerTable"]

Row: TypeAlias = tuple[int, RunnerState, int, int, int, Capacity | None]
"""A runner's row in `stats`: id, state, slots, calls in flight, calls that ended there, capacity."""

TRIPS: Final = 4
"""Number of latest round-trip measurements whose minimum counts."""


class RunnerTable(GroupTable):
    """All runners that exist.

    Attributes:
        runners: by id.
        placements: the room for the calls of each kind on all runners.
        booting: runners that boot, oldest boot first.
        queued: number of them whose boots wait in a queue of the backend.
        now: monotonic seconds of the current event.
        up: number of runners that are up.
        slots, busy, in_flight: sums over runners that are up: slots, slots with a call, calls.
        load: likewise, number of slots that the calls take, with the slots of prefetched calls.
        lent: likewise, number of calls that wait for child calls.
        idle: number of runners without a call that are not being asked whether they may go.
        retiring: runners that are up and take no more calls, because they are beyond `max`.
        retired: the runners without a call that take no more calls.
        endings: a heap of (time, id): when a runner is to be replaced, begins to drain, or ends. Other entries of a
            runner are stale.
        ending: number of runners that drain within the time that a boot takes.
        later: by id, the tier of each runner that is not of the first one.
        rows: the row of each runner, by id. A copy takes microseconds, even with thousands of runners.
    """

    def __init__(
        self, tiers: Sequence[TierLimits], *, single_use: bool, thrifty: bool = False, sends_ahead: bool = True
    ) -> None:
        super().__init__(tiers, thrifty=thrifty)
        self.runners: dict[int, Runner] = {}
        self.placements: Final = PlacementTable(
            sends_ahead=sends_ahead and not single_use, packs=[tier.packs for tier in tiers]
        )
        # An ordered dict, because the last entry is needed: a plain dict walks over all deleted entries there.
        self.booting: OrderedDict[int, Runner] = OrderedDict()
        self.queued = 0
        self.now = 0.0
        self.up = 0
        self.slots = 0
        self.busy = 0
        self.in_flight = 0
        self.load = 0
        self.lent = 0
        self.idle = 0
        self.retiring: dict[int, Runner] = {}
        self.retired: dict[int, Runner] = {}
        self.endings: list[tuple[float, int]] = []
        self.ending = 0
        self.later: dict[int, int] = {}
        self.rows: dict[int, Row] = {}
        self._single_use: Final = single_use
        self._least_loaded: Final = LeastLoaded()

    def add_kind(self, kind: str, requirements: Requirements | None) -> None:
        """Add a kind of calls.

        Args:
            kind: the kind.
            requirements: what a call of this kind requires; None if only runners booted for this kind can take it.
        """
        self.add_groups(kind, requirements)
        self.placements.add_kind(kind, requirements, self.runners.values())

    def drop_kind(self, kind: str) -> None:
        """Remove a kind that has neither calls nor runners."""
        self.drop_groups(kind)
        self.placements.drop_kind(kind)

    def add(self, runner_id: int, group: RunnerGroup) -> None:
        """Add a booting runner."""
        runner = Runner(runner_id, group.kind, group.tier.index)
        group.tier.count += 1
        if group.tier.index:
            self.later[runner_id] = group.tier.index
        self.runners[runner_id] = self.booting[runner_id] = runner
        group.runners[runner_id] = group.booting[runner_id] = runner
        self.note(runner)

    def queue(self, runner: Runner) -> None:
        """Mark a booting runner as one whose boot waits in a queue."""
        if not runner.is_queued:
            runner.is_queued = True
            self.queued += 1
            self.groups[runner.kind][runner.tier].queued[runner.id] = runner

    def unqueue(self, runner: Runner) -> None:
        """Mark the end of a boot's wait in a queue, if it waits in one."""
        if runner.is_queued:
            runner.is_queued = False
            self.queued -= 1
            group = self.groups[runner.kind][runner.tier]
            del group.queued[runner.id]
            if not group.queued:
                group.needless_since = None

    def boot_began(self, runner: Runner, now: float) -> None:
        """Record that the node of a runner is requested."""
        if runner.state is RunnerState.BOOTING:
            group = self.groups[runner.kind][runner.tier]
            group.boot_times.began(runner.id, now)
            group.tier.boot_times.began(runner.id, now)

    def boot_queued(self, runner: Runner) -> None:
        """Record that a booting runner has no node yet after all."""
        group = self.groups[runner.kind][runner.tier]
        group.boot_times.ended(runner.id)
        group.tier.boot_times.ended(runner.id)

    def came_up(self, runner: Runner, slots: int, capacity: Capacity | None, now: float) -> None:
        """Mark a booting runner as up and idle, with this many slots and this capacity."""
        self.unqueue(runner)
        group = self.groups[runner.kind][runner.tier]
        del self.booting[runner.id], group.booting[runner.id]
        runner.state = RunnerState.UP
        runner.slots = 1 if self._single_use else max(1, slots)
        runner.capacity = capacity
        runner.idle_since = now
        group.boot_times.ended(runner.id, now)
        group.tier.boot_times.ended(runner.id, now)
        if group.thrifty is not None:
            group.thrifty.boot_succeeded()
        self.up += 1
        group.up += 1
        self.slots += runner.slots
        group.slots += runner.slots
        required = self.placements.by_kind[runner.kind].requirements
        calls = runner.slots if required is None else required.calls_at_once(runner.slots, capacity)
        group.most_calls = max(group.most_calls, calls)
        group.idle[runner.id] = runner
        self.idle += 1
        self.placements.join(runner)
        self._changed(runner, group)

    def stop(self, runner: Runner) -> None:
        """Stop counting a runner's capacity and calls; keep it until it is gone."""
        self._discount(runner)
        for call in runner.in_flight.values():
            if call.kind:
                self.placements.by_kind[call.kind].give_back(runner)
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
        self.unqueue(runner)
        group = self.groups[runner.kind][runner.tier]
        for call in list(runner.lent.values()):
            self._end_lending(runner, call)
        if runner.state is RunnerState.UP:
            load = runner.counted_load
            busy = min(load, runner.slots)
            for each in (self, group):
                each.up -= 1
                each.slots -= runner.slots
                each.in_flight -= len(runner.in_flight)
                each.load -= load
                each.busy -= busy
            self.placements.leave(runner, yields=runner.id in group.yielding)
        if runner.id in group.ending.runners:
            self.lasts(runner)
        group.boot_times.ended(runner.id)
        group.tier.boot_times.ended(runner.id)
        if group.costs is not None:
            for call in runner.in_flight.values():
                group.costs.left(call)
        self.idle -= runner.id in group.idle
        places = (self.booting, self.retiring, self.retired)
        for place in (*places, group.booting, group.idle, group.idle_check_pending, group.yielding):
            place.pop(runner.id, None)

    def ends_soon(self, runner: Runner, *, in_use: bool) -> None:
        """Mark a runner that is up as one that drains within a boot time. `in_use`: it was sent a call not long ago."""
        self.groups[runner.kind][runner.tier].ending.add(runner, in_use=in_use)
        self.ending += 1

    def lasts(self, runner: Runner) -> None:
        """Remove the mark of a runner that drains within a boot time."""
        self.groups[runner.kind][runner.tier].ending.discard(runner)
        self.ending -= 1

    def forget(self, runner: Runner) -> None:
        """Remove a runner that no longer exists."""
        self.stop(runner)
        del self.runners[runner.id]
        group = self.groups[runner.kind][runner.tier]
        del group.runners[runner.id]
        group.tier.count -= 1
        del self.rows[runner.id]
        self.later.pop(runner.id, None)

    def note(self, runner: Runner) -> None:
        """Update the row of a runner."""
        load = len(runner.in_flight)
        self.rows[runner.id] = runner.id, runner.state, runner.slots, load, runner.done, runner.capacity

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
            if call.kind:
                self.placements.by_kind[call.kind].take(runner)
        group = self.groups[runner.kind][runner.tier]
        runner.sent_at = self.now
        if self.ending:
            group.ending.use(runner)
        if group.costs is not None:
            group.costs.sent(calls, self.now)
        if not before:
            if group.idle.pop(runner_id, None) is not None:
                self.idle -= 1
                if group.thrifty is not None:
                    group.thrifty.idle_ended(self.now - runner.idle_since, group.up - len(group.idle))
            else:
                group.idle_check_pending.pop(runner_id, None)
        self._count(runner, before, group)

    def take_off(self, runner: Runner, call: Call) -> None:
        """Remove a call from a runner. The caller updates the counts."""
        del runner.in_flight[call.id]
        if call.kind:
            self.placements.by_kind[call.kind].give_back(runner)
        costs = self.groups[runner.kind][runner.tier].costs
        if costs is not None:
            costs.left(call)

    def left(self, runner: Runner, before: int, now: float) -> None:
        """Update the counts after calls have left a runner that had `before` calls."""
        if runner.lent:
            for call in [call for number, call in runner.lent.items() if number not in runner.in_flight]:
                self._end_lending(runner, call)
        if not runner.in_flight and before:
            self.rest(runner, now)
        self._count(runner, before, self.groups[runner.kind][runner.tier])

    def lend(self, runner: Runner, call: Call) -> None:
        """Have a call, which waits for its child calls, lend its share of a runner that is up.

        Such a runner does not retire: the child calls may need it.
        """
        if call.id in runner.lent:
            return
        runner.lent[call.id] = call
        self.lent += 1
        self.placements.by_kind[call.kind].lend(runner, -1)
        group = self.groups[runner.kind][runner.tier]
        if runner.retiring:
            if group.yielding.pop(runner.id, None) is not None:
                self.placements.count_yielding(runner, -1)
            self.retiring.pop(runner.id, None)
            self._serve_again(runner)
        self._count(runner, len(runner.in_flight), group)

    def go_on(self, runner: Runner, call: Call) -> None:
        """Have a call take its share of a runner again. For a while, the calls there may take more than there is."""
        if call.id in runner.lent:
            self._end_lending(runner, call)
            self._count(runner, len(runner.in_flight), self.groups[runner.kind][runner.tier])

    def _end_lending(self, runner: Runner, call: Call) -> None:
        del runner.lent[call.id]
        self.lent -= 1
        self.placements.by_kind[call.kind].lend(runner, 1)

    def rest(self, runner: Runner, now: float) -> None:
        """Mark the runner as idle from `now` on."""
        group = self.groups[runner.kind][runner.tier]
        if group.idle_check_pending:
            group.idle_check_pending.pop(runner.id, None)
        runner.idle_since = now
        group.idle[runner.id] = runner
        self.idle += 1
        if runner.retiring:
            self.retired[runner.id] = runner

    def ask(self, runner: Runner) -> None:
        """Mark an idle runner as being asked whether it may go."""
        group = self.groups[runner.kind][runner.tier]
        del group.idle[runner.id]
        self.idle -= 1
        group.idle_check_pending[runner.id] = runner

    def _count(self, runner: Runner, before: int, group: RunnerGroup) -> None:
        count, slots, counted = len(runner.in_flight), runner.slots, runner.counted_load
        change = count - before
        self.in_flight += change
        group.in_flight += change
        load = runner.counted_load = count + runner.extra
        change = load - counted
        self.load += change
        group.load += change
        # `min` takes longer than this, and each result passes here.
        change = (load if load < slots else slots) - (counted if counted < slots else slots)  # noqa: FURB136
        if change:
            self.busy += change
            group.busy += change
        self._changed(runner, group)

    def _changed(self, runner: Runner, group: RunnerGroup) -> None:
        load = len(runner.in_flight)
        self.rows[runner.id] = runner.id, runner.state, runner.slots, load, runner.done, runner.capacity
        if self._least_loaded.is_kept:
            self._least_loaded.changed(runner)
        if group.least_loaded.is_kept:
            group.least_loaded.changed(runner)
        self.placements.list(runner)

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
        # Take the minimum: one delayed ping is no measure of the connection, and causes seconds of prefetched work.
        runner.trips = (*runner.trips[1 - TRIPS :], seconds)
        runner.round_trip = min(runner.trips)
        self.placements.list(runner)

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
            self.placements.count_yielding(runner, 1)

    def end_yield(self, group: RunnerGroup) -> None:
        """Let a runner that yields take calls again."""
        runner = group.yielding.popitem()[1]
        self.placements.count_yielding(runner, -1)
        self._serve_again(runner)

    def _retire(self, runner: Runner, place: dict[int, Runner]) -> None:
        runner.retiring = True
        place[runner.id] = runner
        self.placements.unlist(runner)
        if not runner.in_flight:
            self.retired[runner.id] = runner

    def _serve_again(self, runner: Runner) -> None:
        self.retired.pop(runner.id, None)
        runner.retiring = False
        self._changed(runner, self.groups[runner.kind][runner.tier])
