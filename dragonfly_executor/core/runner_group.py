"""The runners of one kind, by load."""

from __future__ import annotations

from collections import OrderedDict
from heapq import heapify, heappop, heappush

from dragonfly_executor.core.call_queue import SLACK
from dragonfly_executor.core.fullest_first import FullestFirst
from dragonfly_executor.core.least_loaded import LeastLoaded
from dragonfly_executor.core.runner import UP, Runner
from dragonfly_executor.core.scaling import BackOff, prefetch
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TypeAlias

Room: TypeAlias = list[tuple[int, int]]


class RunnerGroup:
    """The runners of one kind, and the boots of this kind.

    Args:
        kind: the kind.
        single_use: whether each runner takes one call and then goes.
        packs: whether a call goes to the runner with the most calls that has a free slot, so that others become idle.

    Attributes:
        runners: by id; stopping ones included.
        booting: runners that boot, oldest boot first.
        up: number of runners that are up.
        slots, in_flight: sums over runners that are up: slots, calls.
        busy: number of their slots that have a call.
        most_slots: the largest number of slots that a runner has had.
        idle: runners without a call, longest idle first.
        idle_check_pending: runners without a call that were asked whether they may go.
        yielding: runners that are up and take no more calls, because another kind needs their room.
        back_off: the pause after failed boots.
        gate: id of the newest call when the kind began to wait for the room of another kind; None while it does not.
    """

    __slots__ = (
        "_free", "_packed", "_single_use", "_spare", "back_off", "booting", "busy", "gate", "idle",
        "idle_check_pending", "in_flight", "kind", "least_loaded", "most_slots", "runners", "slots", "up", "yielding",
    )  # fmt: skip

    def __init__(self, kind: str, *, single_use: bool, packs: bool = False) -> None:
        self.kind = kind
        self._single_use = single_use
        # If calls are packed, it has the runners with a free slot, and `_free` stays empty.
        self._packed = FullestFirst() if packs else None
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
        self.yielding: dict[int, Runner] = {}
        self.back_off = BackOff()
        self.gate: int | None = None
        self.least_loaded = LeastLoaded()
        # Heaps of (calls in flight, id): runners with a free slot, and runners with prefetch credit left. An entry
        # whose load is no longer the runner's is skipped.
        self._free: Room = []
        self._spare: Room = []

    def __repr__(self) -> str:
        return f"<RunnerGroup {self.kind!r} {self.up} up, {len(self.booting)} booting>"

    @property
    def ahead(self) -> int:
        """Return the number of calls in flight beyond the number of slots."""
        return max(0, self.in_flight - self.slots)

    @property
    def staying(self) -> int:
        """Return the number of runners that boot, or are up and do not yield."""
        return self.up + len(self.booting) - len(self.yielding)

    def pick(self, ahead: bool) -> tuple[Runner, int] | None:
        """Return the next runner with a free slot, and how many calls to place on it at once.

        If calls are packed, that is the runner with the most calls, and it is filled. Otherwise it is the least-loaded
        runner, and the number is chosen so that no other runner of the kind has fewer calls before all are placed.
        Prefetched calls are always spread, because they wait for a slot.

        The caller must place calls on the returned runner.

        Args:
            ahead: pick a runner with prefetch credit, or one that is short of slots, instead of a free slot.

        Returns:
            None if no runner has room.
        """
        if self._packed is not None and not ahead:
            fullest = self._packed.first()
            return None if fullest is None else (fullest, fullest.slots - len(fullest.in_flight))
        room = self._spare if ahead else self._free
        while room:
            load, runner_id = heappop(room)
            runner = self.runners.get(runner_id)
            if runner is None or len(runner.in_flight) != load or runner.state is not UP or runner.retiring:
                continue
            limit = runner.slots + runner.prefetch if ahead else runner.slots
            if load >= limit or (runner.is_short and load and not ahead):
                continue
            if room and room[0][0] < limit:
                limit = room[0][0] + 1
            return runner, limit - load if limit > load else 1
        return None

    def list(self, runner: Runner) -> None:
        """List a runner as one with a free slot or with prefetch credit, if it has either."""
        load, packed = len(runner.in_flight), self._packed
        if packed is not None:
            packed.discard(runner)
            if runner.retiring:
                return
        if load < runner.slots and not (runner.is_short and load):
            if packed is not None:
                packed.put(runner)
                return
            room = self._free
        elif load < runner.slots:
            runner.prefetch = 0
            room = self._spare
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

    def unlist(self, runner: Runner) -> None:
        """Take a runner off the lists: it takes no more calls."""
        # The heaps skip such a runner.
        if self._packed is not None:
            self._packed.discard(runner)

    def _is_current(self, load: int, runner_id: int) -> bool:
        runner = self.runners.get(runner_id)
        return runner is not None and runner.state is UP and len(runner.in_flight) == load
