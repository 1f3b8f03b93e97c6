"""The room for calls of one kind, on all runners on which they fit."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from dragonfly_executor.core.call_queue import SLACK
from dragonfly_executor.core.capacity import Requirements
from dragonfly_executor.core.fullest_first import FullestFirst
from dragonfly_executor.core.runner import UP, Runner
from dragonfly_executor.core.scaling import prefetch
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final, TypeAlias

Room: TypeAlias = list[tuple[int, int]]
RANK: Final = 2**32
"""Difference in rank between runners of which one has something more that the calls do not require.

It is larger than any load, so calls go to that runner only if no other has room.
"""
TIER_RANK: Final = RANK * 2**20
"""Difference in rank between the runners of one backend and those of the next. It is larger than any other rank."""


class CallPlacement:
    """The room for calls of one kind.

    Args:
        kind: the kind.
        requirements: what such a call requires; None if only runners that were booted for this kind can take it.
        sends_ahead: whether a runner may get more calls than it has slots.
        packs: for each tier, whether a call goes to the runner with the most calls that has a free slot, so that others
            become idle.

    Attributes:
        members: by id, the runners that are up and on which such a call fits.
        yielding: number of members that take no more calls, because another kind needs their room.
        slots: for each tier, the number of such calls that its members can run at once.
        in_flight: number of such calls on runners; not counted for the default kind.
        shares: True if such a call takes a stated share of its runner: CPUs, GPUs or memory.
    """

    __slots__ = (
        "_free", "_packed", "_packs", "_sends_ahead", "_spare", "in_flight", "kind", "members", "requirements",
        "shares", "slots", "yielding",
    )  # fmt: skip

    def __init__(
        self,
        kind: str,
        requirements: Requirements | None,
        *,
        sends_ahead: bool = True,
        packs: Sequence[bool] = (False,),
    ) -> None:
        self.kind = kind
        self.requirements = requirements
        self.members: dict[int, Runner] = {}
        self.yielding = 0
        self.slots = [0] * len(packs)
        self.in_flight = 0
        self.shares = requirements is not None and requirements.takes_share
        self._sends_ahead = sends_ahead
        # Heaps of (rank, id): runners with a free slot, and runners with prefetch credit left. The rank of a runner is
        # its load, plus RANK for what it has beyond need, plus TIER_RANK for each tier before its own. An entry whose
        # load is no longer the runner's is skipped.
        self._free: Room = []
        self._spare: Room = []
        # It has the runners with a free slot whose calls are packed, and `_free` has those whose calls are not.
        self._packed = FullestFirst() if any(packs) else None
        self._packs = packs

    def __repr__(self) -> str:
        return f"<CallPlacement {self.kind!r} {len(self.members)} runners>"

    def fits(self, runner: Runner) -> bool:
        """Return whether a call of this kind fits on a runner that is up, if it is the only call there."""
        if runner.kind == self.kind:
            return True
        return self.requirements is not None and runner.capacity is not None and self.requirements.fit(runner.capacity)

    def add(self, runner: Runner) -> int | None:
        """Add a runner that is up, if calls of this kind fit there.

        Returns:
            Its rank without its load; None if the calls do not fit there.
        """
        if not self.fits(runner):
            return None
        self.members[runner.id] = runner
        self.slots[runner.tier] += self._at_once(runner)
        rank = TIER_RANK * runner.tier
        if self.requirements is None or runner.capacity is None:
            return rank
        return rank + RANK * self.requirements.surplus(runner.capacity)

    def _at_once(self, runner: Runner) -> int:
        """Return how many calls of this kind a member can run at once."""
        required = self.requirements
        return runner.slots if required is None else required.calls_at_once(runner.slots, runner.capacity)

    def take(self, runner: Runner) -> None:
        """Have a call of this kind take its share of a runner."""
        self.in_flight += 1
        required = self.requirements
        if required is not None and self.shares:
            runner.extra += required.slots_of(runner.slots, runner.capacity) - 1
            runner.gpus_used += required.gpus
            runner.memory_used += required.memory
            runner.is_uneven = runner.extra != 0 or bool(runner.lent)

    def give_back(self, runner: Runner) -> None:
        """Return the share that a call of this kind took of a runner."""
        self.in_flight -= 1
        required = self.requirements
        if required is not None and self.shares:
            runner.extra -= required.slots_of(runner.slots, runner.capacity) - 1
            runner.gpus_used -= required.gpus
            runner.memory_used -= required.memory
            runner.is_uneven = runner.extra != 0 or bool(runner.lent)

    def lend(self, runner: Runner, sign: int) -> None:
        """Have a call of this kind lend its share of a runner (`sign` -1), or take it again (1)."""
        required = self.requirements
        if required is None or not self.shares:
            runner.extra += sign
        else:
            runner.extra += sign * required.slots_of(runner.slots, runner.capacity)
            runner.gpus_used += sign * required.gpus
            runner.memory_used += sign * required.memory
        runner.is_uneven = runner.extra != 0 or bool(runner.lent)

    def room(self, runner: Runner) -> int:
        """Return how many calls of this kind can begin now on a member."""
        if runner.state is not UP or runner.retiring or runner.held_for not in (None, self.kind):
            return 0
        count = runner.slots - runner.load
        required = self.requirements
        if required is not None and self.shares:
            count //= required.slots_of(runner.slots, runner.capacity)
            if runner.capacity is not None:
                if required.gpus:
                    count = min(count, (runner.capacity.gpus - runner.gpus_used) // required.gpus)
                if required.memory:
                    count = min(count, (runner.capacity.memory - runner.memory_used) // required.memory)
        return count

    def has_room_soon(self, runner: Runner) -> bool:
        """Return whether a call that is sent to a runner begins at once, or after calls that are known to be short."""
        if runner.id not in self.members or (runner.is_short and runner.in_flight):
            return False
        room = self.room(runner)
        return room > 0 or (
            not self.shares
            and runner.cost is not None
            and runner.load < runner.slots + (0 if runner.is_uneven else runner.prefetch)
            and not runner.retiring
            and runner.held_for in (None, self.kind)
        )

    def pick(self, ahead: bool) -> tuple[Runner, int] | None:
        """Return the next runner with a free slot, and how many calls to place on it at once.

        Runners of an earlier tier come first. If calls are packed, that is the runner with the most calls, and it is
        filled. Otherwise it is the least-loaded runner, and the number is chosen so that no other runner has fewer
        calls before all are placed. Prefetched calls are always spread, because they wait for a slot. In a tier, a
        runner that has what the calls do not require comes last.

        The caller must place calls on the returned runner.

        Args:
            ahead: pick a runner with prefetch credit, or one that is short of slots, instead of a free slot.

        Returns:
            None if no runner has room.
        """
        if ahead:
            return self._pick_least(self._spare, ahead=True)
        if self._packed is None:
            return self._pick_least(self._free)
        fullest = self._pick_fullest(self._packed)
        if fullest is None:
            return self._pick_least(self._free)
        # Entries that are no longer true make only this comparison wrong, so they go first.
        while self._free and not self._is_current(*self._free[0]):
            heappop(self._free)
        if self._free and self._free[0][0] < TIER_RANK * fullest[0].tier:
            return self._pick_least(self._free) or fullest
        return fullest

    def _pick_fullest(self, packed: FullestFirst) -> tuple[Runner, int] | None:
        """Return the runner with the most calls that has room, and how many calls it has room for."""
        while (fullest := packed.first()) is not None:
            count = self.room(fullest)
            if count > 0:
                return fullest, count
            packed.discard(fullest)
        return None

    def _pick_least(self, room: Room, *, ahead: bool = False) -> tuple[Runner, int] | None:
        """Return the least-loaded runner in this heap, and how many calls to place on it at once."""
        while room:
            rank, runner_id = heappop(room)
            runner, load = self.members.get(runner_id), rank % RANK
            if runner is None or len(runner.in_flight) + runner.extra != load or runner.retiring:
                continue
            if runner.held_for is not None and runner.held_for != self.kind:
                continue
            if runner.is_short and load and not ahead:
                continue
            if self.shares:
                count = self.room(runner)
                if count > 0:
                    return runner, 1 if room else count
                continue
            limit = runner.slots + runner.prefetch if ahead else runner.slots
            if load >= limit:
                continue
            rank -= load
            if room and room[0][0] < rank + limit:
                limit = room[0][0] - rank + 1
            return runner, limit - load if limit > load else 1
        return None

    def list(self, runner: Runner, rank: int) -> None:
        """List a member as one with a free slot or with prefetch credit, if it has either.

        Args:
            runner: the member.
            rank: its rank without its load.
        """
        load, packed = len(runner.in_flight) + runner.extra, self._packed
        if packed is not None:
            packed.discard(runner)
        if runner.retiring or (runner.held_for is not None and runner.held_for != self.kind):
            return
        if self.shares:
            if self.room(runner) <= 0:
                return
            room = self._spare if runner.is_short and load else self._free
        elif load < runner.slots and not (runner.is_short and load):
            room = self._free
        elif load < runner.slots:
            runner.prefetch = 0
            room = self._spare
        else:
            # Compute it only if all slots are taken, so that calls which come one by one do not pay for it.
            runner.prefetch = self._prefetch(runner)
            if load >= runner.slots + runner.prefetch:
                return
            room = self._spare
        if packed is not None and room is self._free and self._packs[runner.tier]:
            # A call that has lent its slot keeps its runner up, so its runner is filled first too.
            packed.put(runner, load + len(runner.lent) - rank)
            return
        heappush(room, (rank + load, runner.id))
        if len(room) > 4 * len(self.members) + SLACK:
            room[:] = {entry for entry in room if self._is_current(*entry)}
            heapify(room)

    def discard(self, runner: Runner) -> None:
        """Remove a runner that is no longer up."""
        del self.members[runner.id]
        self.slots[runner.tier] -= self._at_once(runner)
        self.unlist(runner)

    def unlist(self, runner: Runner) -> None:
        """Take a runner off the lists: it takes no more calls."""
        # The heaps skip such a runner.
        if self._packed is not None:
            self._packed.discard(runner)

    def _prefetch(self, runner: Runner) -> int:
        # A call with a share leaves slots free that must stay free, and the agent does not know that.
        if not self._sends_ahead or runner.is_uneven:
            return 0
        return prefetch(runner.cost, runner.slots, runner.round_trip)

    def _is_current(self, rank: int, runner_id: int) -> bool:
        runner = self.members.get(runner_id)
        return runner is not None and runner.load == rank % RANK
