"""The placements of all kinds of calls, and the runners that are members of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter

from dragonfly_executor.core.calls import DEFAULT_KIND
from dragonfly_executor.core.capacity import Requirements
from dragonfly_executor.core.passed_over import PassedOver
from dragonfly_executor.core.placement import CallPlacement
from dragonfly_executor.core.runner import UP, Runner
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final


class PlacementTable:
    """The placements of all kinds.

    Args:
        sends_ahead: whether a runner may get more calls than it has slots.
        packs: for each tier, whether calls are packed there.

    Attributes:
        by_kind: the placements.
        held: the runner that takes only the next call of one kind, which has no room yet; or None.
        passed_over: by kind, the runners with room whose ends come too soon for the calls that wait.
    """

    def __init__(self, *, sends_ahead: bool, packs: Sequence[bool]) -> None:
        self._sends_ahead: Final = sends_ahead
        self._packs: Final = packs
        self.by_kind: dict[str, CallPlacement] = {}
        self.held: Runner | None = None
        self.passed_over: dict[str, PassedOver] = {}
        # By runner, its placements, and its rank in each of them.
        self._memberships: dict[int, list[tuple[CallPlacement, int]]] = {}
        self.add_kind(DEFAULT_KIND, Requirements(), ())

    def add_kind(self, kind: str, requirements: Requirements | None, runners: Iterable[Runner]) -> None:
        """Add a kind of calls.

        Args:
            kind: the kind.
            requirements: what a call of this kind requires; None if only runners booted for this kind can take it.
            runners: all runners.
        """
        placement = self.by_kind[kind] = CallPlacement(
            kind, requirements, sends_ahead=self._sends_ahead, packs=self._packs
        )
        for runner in runners:
            if runner.state is UP and (rank := placement.add(runner)) is not None:
                self._memberships[runner.id].append((placement, rank))
                placement.list(runner, rank)

    def drop_kind(self, kind: str) -> None:
        """Remove a kind that has neither calls nor runners."""
        placement = self.by_kind.pop(kind)
        for runner_id in placement.members:
            self._memberships[runner_id] = [each for each in self._memberships[runner_id] if each[0] is not placement]
        self.release(kind)

    # -- the members ---------------------------------------------------------------------------------------------------

    def of(self, runner: Runner) -> list[CallPlacement]:
        """Return the placements of which a runner that is up is a member."""
        return [placement for placement, _ in self._memberships[runner.id]]

    def join(self, runner: Runner) -> None:
        """Make a runner that came up a member of the placements whose calls fit there. The caller lists it."""
        memberships = self._memberships[runner.id] = []
        for placement in self.by_kind.values():
            rank = placement.add(runner)
            if rank is not None:
                memberships.append((placement, rank))

    def leave(self, runner: Runner, *, yields: bool) -> None:
        """Remove a runner that is no longer up. `yields`: whether it took no more calls for another kind."""
        for placement, _ in self._memberships.pop(runner.id):
            placement.discard(runner)
            placement.yielding -= yields
        if runner is self.held:
            self.held = None

    def list(self, runner: Runner) -> None:
        """List a runner that is up in all its placements."""
        for placement, rank in self._memberships[runner.id]:
            placement.list(runner, rank)

    def unlist(self, runner: Runner) -> None:
        """Take a runner off the lists of all its placements: it takes no more calls."""
        for placement, _ in self._memberships[runner.id]:
            placement.unlist(runner)

    def count_yielding(self, runner: Runner, change: int) -> None:
        """Add `change` to the number of members that yield, in all placements of a runner."""
        for placement, _ in self._memberships[runner.id]:
            placement.yielding += change

    # -- calls for which there is no room ------------------------------------------------------------------------------

    def hold(self, kind: str) -> None:
        """Hold the member with the least load for a kind: calls of other kinds are not sent there until `release`."""
        # A runner whose end is known may not have the time for the call.
        stays = [runner for runner in self.by_kind[kind].members.values() if runner.ends_at is None]
        members = [runner for runner in stays if not runner.retiring]
        if members:
            self.held = min(members, key=attrgetter("load", "id"))
            self.held.held_for = kind
            self.list(self.held)

    def release(self, kind: str | None = None) -> None:
        """End the hold of a runner, if there is one, and it is for this kind; None = for any kind."""
        runner = self.held
        if runner is not None and kind in (None, runner.held_for):
            self.held = runner.held_for = None
            self.list(runner)

    def pass_over(self, runner: Runner, placement: CallPlacement) -> None:
        """Do not pick a runner for this kind until `list_passed_over`: no call that waits has the time there."""
        placement.unlist(runner)
        over = self.passed_over.get(placement.kind)
        if over is None:
            over = self.passed_over[placement.kind] = PassedOver()
        over.add(runner)

    def list_passed_over(self, kind: str) -> None:
        """List the runners again that were passed over for this kind."""
        for runner in self.passed_over.pop(kind).runners:
            self.list(runner)
