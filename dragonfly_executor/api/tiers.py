"""The limits of each backend of a pool that has several."""

from __future__ import annotations

from collections.abc import Sequence

from dragonfly_executor.api.options import boots_at_once, caps, core_limits, idle_time, packs
from dragonfly_executor.core.limits import PoolLimits, TierLimits
from dragonfly_executor.core.usage import UsageCaps
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.validation import duration

if TYPE_CHECKING:
    from dragonfly_executor.backends.budget import Budget
    from dragonfly_executor.engine.options import PoolOptions
    from dragonfly_executor.engine.tier_settings import TierSettings


def limits_of_several(options: PoolOptions, tiers: Sequence[TierSettings]) -> PoolLimits:
    """Return the options that the core enforces for a pool with several backends.

    Raises:
        TypeError, ValueError: a backend has a value that is none.
    """
    limits = tuple(_tier_limits(tier, options) for tier in tiers)
    return core_limits(options, tiers[0], limits, _shared_caps(options.budget, limits))


def _tier_limits(tier: TierSettings, options: PoolOptions) -> TierLimits:
    """Return the limits of a tier: those of its backend, otherwise the pool's."""
    backend = tier.backend
    idle, sorts = backend.idle_shutdown_after, tuple(backend.capacities())
    of_backend = f"of the {backend.name} backend"
    return TierLimits(
        name=tier.name,
        max=tier.max,
        slots_hint=tier.slots_hint,
        capacity=sorts[0] if len(sorts) == 1 else None,
        capacities=sorts,
        idle_after=options.idle_after
        if idle is None
        else idle_time(duration(idle, f"idle_shutdown_after {of_backend}")),
        learns_idle=options.learns_idle and idle is None,
        max_concurrent_boots=boots_at_once(backend),
        boot_seconds=duration(backend.expected_boot_time, f"expected_boot_time {of_backend}", positive=True),
        packs=packs(options, backend),
        caps=caps(backend, [backend.budget], [options.budget]),
    )


def _shared_caps(budget: Budget | None, tiers: Sequence[TierLimits]) -> UsageCaps:
    """Return the caps of all tiers together. Each tier has its own price."""
    dates = dict.fromkeys(tier.caps.as_of for tier in tiers if tier.caps.as_of)
    return UsageCaps(
        machine_seconds=None if budget is None else budget.machine_time,
        cost=None if budget is None else budget.cost,
        as_of=", ".join(dates),
    )
