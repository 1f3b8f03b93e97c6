"""One backend of a pool, as the core sees it. The backends of a pool are its tiers, in order of preference."""

from __future__ import annotations

from dragonfly_executor.core.boot_times import BootTimes
from dragonfly_executor.core.capacity import Capacity, Requirements
from dragonfly_executor.core.limits import TierLimits
from dragonfly_executor.core.scaling import BootPlaces
from dragonfly_executor.core.usage import Usage
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final


class Tier:
    """One backend.

    Args:
        index: its place in the order of preference, from 0.
        limits: its limits.

    Attributes:
        boots: the places of the boots that it can run at once.
        boot_times: how long its boots take, no matter for which kind of calls.
        usage: what its runners have used, of its own budget.
        count: number of its runners, booting and stopping ones included.
        has_told_of_budget: True once the warning that its budget is used up was given.
        last_error: the error of its last boot that failed.
    """

    __slots__ = ("boot_times", "boots", "count", "has_told_of_budget", "index", "last_error", "limits", "usage")

    def __init__(self, index: int, limits: TierLimits) -> None:
        self.index: Final = index
        self.limits: Final = limits
        self.boots: Final = BootPlaces(limits.max_concurrent_boots)
        self.boot_times: Final = BootTimes()
        self.usage: Final = Usage(limits.caps)
        self.count = 0
        self.has_told_of_budget = False
        self.last_error: Exception | None = None

    def __repr__(self) -> str:
        return f"<Tier {self.index} {self.limits.name!r} {self.count} runners>"

    @property
    def boot_seconds(self) -> float:
        """Return the seconds that a boot is expected to take."""
        seen = self.boot_times.seconds
        return self.limits.boot_seconds if seen is None else seen

    def can_have(self, requirements: Requirements | None) -> bool:
        """Return whether a runner of this backend may be able to run a call with these requirements."""
        capacities: tuple[Capacity, ...] = self.limits.capacities
        return requirements is None or not capacities or any(requirements.fit(capacity) for capacity in capacities)
