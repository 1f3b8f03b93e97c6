"""Random courses of events for a pool with several backends: the steps are those of `pool_courses`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from dragonfly_executor.core.capacity import Capacity
from dragonfly_executor.core.limits import PoolLimits, TierLimits
from dragonfly_executor.core.usage import UsageCaps
from tests.support.courses import opening
from tests.support.pool_courses import BOTH, KINDS, LIMITS, POOLS, RICH, DependentMachineAndWorld, MachineAndWorld
from tests.support.tiered_world import TieredWorld

OWN = {"caps", "slots_hint", "idle_after", "learns_idle", "max_concurrent_boots", "packs"}
"""Limits that each backend has of its own."""
SORTS: Collection[tuple[Capacity, ...]] = [(), (), (), (RICH,), (Capacity(1.0),)]
TIER: dict[str, Collection[Any]] = {
    "max": range(1, 4),
    "hint": range(1, 4),
    "idle": [None, 5.0],
    "learns": BOTH,
    "boots": [100, 100, 1, 2],
    "seconds": [0.0, 1.0, 4.0],
    "packs": BOTH,
    "caps": [*[UsageCaps()] * 3, UsageCaps(price=0.5), UsageCaps(machine_seconds=6.0)],
    "capacities": SORTS,
}
CHOICES = {f"{name}_{tier}": choices for tier in range(3) for name, choices in TIER.items()}


class TieredMachineAndWorld(MachineAndWorld):
    @opening(
        calls=range(10),
        first=range(len(LIMITS)),
        warm=[True, True, False],
        kinds=range(1, 4),
        sort=KINDS,
        tiers=[2, 2, 3],
        **{name: choices for name, choices in POOLS.items() if name not in OWN},
        **CHOICES,
    )
    def open(
        self,
        calls: int,
        first: int,
        warm: bool,
        kinds: int,
        sort: str = "runners of their own",
        tiers: int = 2,
        **limits: Any,
    ) -> None:
        """Make a pool of some backends, with some calls."""
        own = {name: value for name, value in limits.items() if name not in CHOICES}
        all_tiers = tuple([self.tier(index, limits) for index in range(tiers)])
        self.world = TieredWorld(PoolLimits(**own | {"tiers": all_tiers, "max": 2 * limits.get("max", 2)}))
        self.kinds = KINDS[sort][:kinds]
        self.world.submit([LIMITS[(first + i) % len(LIMITS)] for i in range(calls)], self.kinds)
        if warm:
            self.all_runners_come_and_go(slots=2)

    @staticmethod
    def tier(index: int, limits: dict[str, Any]) -> TierLimits:
        """Make the limits of one backend."""
        names = {"hint": "slots_hint", "idle": "idle_after", "learns": "learns_idle", "boots": "max_concurrent_boots"}
        names |= {"seconds": "boot_seconds"}
        chosen = {names.get(name, name): limits[f"{name}_{index}"] for name in TIER if f"{name}_{index}" in limits}
        return TierLimits(name=f"t{index}", **{"max": 1, **chosen})


class DependentTieredMachineAndWorld(TieredMachineAndWorld, DependentMachineAndWorld):
    """The same, with spare runners, calls that wait for their arguments, and time-outs that are retried."""

    @opening(
        calls=range(10),
        first=range(len(LIMITS)),
        warm=[True, True, False],
        kinds=range(1, 4),
        sort=KINDS,
        tiers=[2, 2, 3],
        spare=[0, 1, 1, 2],
        **{name: choices for name, choices in POOLS.items() if name not in OWN},
        **CHOICES,
    )
    def open(self, **choices: Any) -> None:
        """Make a pool of some backends with spare runners."""
        TieredMachineAndWorld.open(self, **choices)
