"""The limits of a pool, and of each of its backends."""

from __future__ import annotations

from dragonfly_executor.core.capacity import Capacity
from dragonfly_executor.core.record import Record
from dragonfly_executor.core.usage import UsageCaps


class TierLimits(Record):
    """The limits of one backend of a pool. Durations are seconds.

    Args:
        name: the backend's name, for messages and statistics.
        max: maximum number of its runners, booting and stopping ones included; None = the pool's `max` alone counts.
        slots_hint: expected number of slots of a runner, until one has come up.
        capacity: what a runner that is booted for no special kind is expected to have; None if unknown.
        capacities: what its runners can have, one item for each sort; empty if unknown. Calls that fit none of them
            have no runner booted here.
        idle_after: how long a runner above the pool's `min` may be idle; None = for ever.
        learns_idle: in a thrifty pool, keep idle runners for as long as has paid so far, and not for `idle_after`.
        max_concurrent_boots: boots that the backend can run at once.
        boot_seconds: expected time of a boot, until one has succeeded.
        packs: a call goes to the runner with the most calls that has a free slot, and not to the one with the fewest.
        caps: the maximum that the runners of this backend may use together, and their price until it is known.
    """

    __slots__ = __match_args__ = (
        "name", "max", "slots_hint", "capacity", "capacities", "idle_after", "learns_idle", "max_concurrent_boots",
        "boot_seconds", "packs", "caps",
    )  # fmt: skip

    def __init__(
        self,
        *,
        name: str = "",
        max: int | None = None,  # noqa: A002  # Dragonfly's word
        slots_hint: int = 1,
        capacity: Capacity | None = None,
        capacities: tuple[Capacity, ...] = (),
        idle_after: float | None = 30.0,
        learns_idle: bool = False,
        max_concurrent_boots: int = 100,
        boot_seconds: float = 10.0,
        packs: bool = False,
        caps: UsageCaps | None = None,
    ) -> None:
        self.name = name
        self.max = max
        self.slots_hint = slots_hint
        self.capacity = capacity
        self.capacities = capacities
        self.idle_after = idle_after
        self.learns_idle = learns_idle
        self.max_concurrent_boots = max_concurrent_boots
        self.boot_seconds = boot_seconds
        self.packs = packs
        self.caps = caps or UsageCaps()


class PoolLimits(Record):
    """The limits of a pool. Durations are seconds; None means never, or no limit.

    Args:
        min: number of runners that are kept.
        max: maximum number of runners, booting and stopping ones included.
        spare: number of runners that are kept ahead of the calls; see `core.spares`.
        max_workers: maximum number of calls at once over the whole pool.
        slots_hint: expected number of slots of a runner, until a runner has come up.
        capacity: what a runner that is booted for no special kind is expected to have; None if unknown.
        idle_after: how long a runner above `min` may be idle.
        min_idle_after: how long the `min` runners may be idle. A runner that stopped for this is booted again when
            calls come.
        idle_check: ask the runner before it is stopped for being idle.
        single_use: a runner takes one call and goes.
        sends_ahead: a runner may get a few calls more than it has slots.
        queued_idle_after: how long a boot that waits in a queue of the backend is kept though no call needs it.
        max_boot_failures: failed boots in a row, with no runner up, after which waiting calls fail.
        max_concurrent_boots: boots that the backend can run at once.
        at_once: maximum number of calls that one event settles, not counting calls that it names. If a shutdown, a
            broken pool, a budget or a timeout ends more calls, the next ticks settle the rest; the machine asks for
            these ticks at once.
        drain_before: how long before its known end a runner stops taking calls; at most half of its lifetime.
        shutdown_grace: seconds that a runner may take to go.
        packs: a call goes to the runner with the most calls that has a free slot, and not to the one with the fewest.
        thrifty: boot only runners that pay for themselves; see `core.thrifty`.
        learns_idle: with `thrifty`, keep idle runners for as long as has paid so far, and not for `idle_after`.
        caps: the maximum that all runners together may use.
        tiers: the limits of each backend, in order of preference. Empty for a pool with one backend, whose limits are
            those above: `slots_hint`, `capacity`, `idle_after`, `learns_idle`, `max_concurrent_boots`, `packs`.
    """

    __slots__ = __match_args__ = (
        "min", "max", "spare", "max_workers", "slots_hint", "capacity", "idle_after", "min_idle_after", "idle_check",
        "single_use", "queued_idle_after", "max_boot_failures", "max_concurrent_boots", "at_once", "shutdown_grace",
        "packs", "thrifty", "learns_idle", "caps", "drain_before", "tiers", "sends_ahead",
    )  # fmt: skip

    def __init__(
        self,
        *,
        min: int = 0,  # noqa: A002  # Dragonfly's word
        max: int = 1,  # noqa: A002
        spare: int = 0,
        max_workers: int | None = None,
        slots_hint: int = 1,
        capacity: Capacity | None = None,
        idle_after: float | None = 30.0,
        min_idle_after: float | None = None,
        idle_check: bool = False,
        single_use: bool = False,
        queued_idle_after: float = 5.0,
        max_boot_failures: int = 3,
        max_concurrent_boots: int = 100,
        at_once: int = 1000,
        drain_before: float = 30.0,
        shutdown_grace: float = 30.0,
        packs: bool = False,
        thrifty: bool = False,
        learns_idle: bool = False,
        caps: UsageCaps | None = None,
        tiers: tuple[TierLimits, ...] = (),
        sends_ahead: bool = True,
    ) -> None:
        self.min = min
        self.max = max
        self.spare = spare
        self.max_workers = max_workers
        self.slots_hint = slots_hint
        self.capacity = capacity
        self.idle_after = idle_after
        self.min_idle_after = min_idle_after
        self.idle_check = idle_check
        self.single_use = single_use
        self.queued_idle_after = queued_idle_after
        self.max_boot_failures = max_boot_failures
        self.max_concurrent_boots = max_concurrent_boots
        self.at_once = at_once
        self.drain_before = drain_before
        self.shutdown_grace = shutdown_grace
        self.packs = packs
        self.thrifty = thrifty
        self.learns_idle = learns_idle
        self.caps = caps or UsageCaps()
        self.tiers = tiers
        self.sends_ahead = sends_ahead

    def of_tiers(self) -> tuple[TierLimits, ...]:
        """Return the limits of each backend, also for a pool with one."""
        return self.tiers or (
            TierLimits(
                slots_hint=self.slots_hint,
                capacity=self.capacity,
                idle_after=self.idle_after,
                learns_idle=self.learns_idle,
                max_concurrent_boots=self.max_concurrent_boots,
                packs=self.packs,
            ),
        )
