"""The groups of a pool's runners, by the kind of their calls and by backend."""

from __future__ import annotations

from collections.abc import Sequence

from dragonfly_executor.core.calls import DEFAULT_KIND
from dragonfly_executor.core.capacity import Requirements
from dragonfly_executor.core.limits import TierLimits
from dragonfly_executor.core.runner_group import RunnerGroup
from dragonfly_executor.core.tier import Tier
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final


class GroupTable:
    """The groups of all kinds on all backends.

    Args:
        tiers: the limits of each backend.
        thrifty: whether only runners boot that pay for themselves.

    Attributes:
        tiers: the backends, in order of preference.
        groups: by kind, the runners that each backend has booted for it, in order of preference.
        all_groups: the groups of all kinds.
        default: the group of the default kind on the first backend.
    """

    def __init__(self, tiers: Sequence[TierLimits], *, thrifty: bool) -> None:
        self.tiers: Final = tuple([Tier(index, limits) for index, limits in enumerate(tiers)])
        self.groups: dict[str, tuple[RunnerGroup, ...]] = {}
        self.all_groups: list[RunnerGroup] = []
        self._thrifty: Final = thrifty
        self.add_groups(DEFAULT_KIND, Requirements())
        self.default: Final = self.all_groups[0]

    def add_groups(self, kind: str, requirements: Requirements | None) -> None:
        """Add the groups of a kind.

        If no backend can have runners for such calls, each is tried all the same: its error tells more.

        Args:
            kind: the kind.
            requirements: what a call of this kind requires; None if only runners booted for this kind can take it.
        """
        measures = len(self.tiers) > 1
        groups = tuple([RunnerGroup(kind, tier, thrifty=self._thrifty, measures=measures) for tier in self.tiers])
        possible = [group.tier.can_have(requirements) for group in groups]
        if any(possible):
            for group, is_possible in zip(groups, possible, strict=True):
                group.is_possible = is_possible
        self.groups[kind] = groups
        self.all_groups += groups

    def drop_groups(self, kind: str) -> None:
        """Remove the groups of a kind."""
        del self.groups[kind]
        self.all_groups = [group for group in self.all_groups if group.kind != kind]

    def groups_on(self, tier: Tier) -> Sequence[RunnerGroup]:
        """Return the groups of all kinds on a tier."""
        if len(self.tiers) == 1:
            return self.all_groups
        return [groups[tier.index] for groups in self.groups.values()]

    def default_on(self, tier: Tier) -> RunnerGroup:
        """Return the group of the default kind on a tier."""
        return self.groups[DEFAULT_KIND][tier.index]

    def next_boot(self) -> float | None:
        """Return when the first pause after failed boots ends, in monotonic seconds; None if there is no pause."""
        pauses = [group.back_off.until for group in self.all_groups if group.back_off.until is not None]
        return min(pauses, default=None)
