"""A pool's options: the user's, completed by its backends.

The option classes are in `engine.options`, because the engine reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

from dragonfly_executor.core.limits import PoolLimits
from dragonfly_executor.core.usage import UsageCaps
from dragonfly_executor.engine.option_checks import one_of
from dragonfly_executor.engine.options import CallOptions, PoolOptions
from dragonfly_executor.engine.tier_settings import max_among_several, most_runners
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.validation import dollars, whole

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.backends.base import Backend
    from dragonfly_executor.backends.budget import Budget
    from dragonfly_executor.core.limits import TierLimits
    from dragonfly_executor.engine.tier_settings import TierSettings

__all__ = ["CallOptions", "PoolOptions", "core_limits", "read_options"]


def read_options(
    name: str, backends: Sequence[Backend], given: Mapping[str, Any], defaults: Mapping[str, Any]
) -> PoolOptions:
    """Return the pool's options, with the default options of its calls.

    Args:
        name: the pool's name.
        backends: the pool's backends, in order of preference.
        given: the user's options, by name.
        defaults: defaults of a kind of pool that differ from `PoolOptions`'.

    Raises:
        TypeError: there is no such option, or its value has the wrong type.
        ValueError: a value is out of range.
    """
    for key in given:
        if key not in PoolOptions.OPTIONS and key not in CallOptions.OPTIONS:
            known = sorted({*PoolOptions.OPTIONS, *CallOptions.OPTIONS})
            raise TypeError(f"no such option: {key!r}; the options are {', '.join(known)}")
    options = {**defaults, **given}
    calls = {key: options.pop(key) for key in list(options) if key in CallOptions.OPTIONS}
    options.setdefault("boot_timeout", max(backend.default_boot_timeout for backend in backends))
    options["max"] = _max_runners(backends, options.get("max"))
    if len(backends) == 1:
        _complete(options, backends[0], given)
    return PoolOptions(name, CallOptions(**calls), options)


def _complete(options: dict[str, Any], backend: Backend, given: Mapping[str, Any]) -> None:
    """Complete the options of a pool with one backend by what is set for that backend."""
    if backend.idle_shutdown_after is not None:
        options.setdefault("idle_shutdown_after", idle_time(backend.idle_shutdown_after))
    if backend.slots is not None and "max_concurrency" not in given:
        options["max_concurrency"] = backend.slots
    one_local_runner = backend.name == "local" and options["max"] == 1
    if one_local_runner and options.get("max_workers") and options.get("max_concurrency") is None:
        options["max_concurrency"] = options["max_workers"]


def _max_runners(backends: Sequence[Backend], wanted: int | None) -> int:
    """Return the `max` of a pool: the user's, if the backends' allow it, otherwise the backends'.

    Raises:
        TypeError, ValueError: one of them is no number of runners, or the user must give one.
    """
    most = most_runners(backends)
    if wanted is not None:
        wanted = whole(wanted, "max", 1)
        return wanted if most is None else min(wanted, most)
    if most is not None:
        return most
    # With one backend, its `default_max` is no bound for the user's `max`, so `most` does not have it.
    backend = next((each for each in backends if max_among_several(each) is None), backends[0])
    if backend.default_max is None:
        raise ValueError(
            f"max is required with the {backend.name} backend: set it to the most runners that may be up at once"
        )
    return backend.default_max


def core_limits(
    options: PoolOptions, tier: TierSettings, tiers: tuple[TierLimits, ...] = (), shared: UsageCaps | None = None
) -> PoolLimits:
    """Return the options that the core enforces, completed by the backend.

    Args:
        options: the pool's.
        tier: the pool's only tier, or the first of several.
        tiers: the limits of each tier, if there are several.
        shared: the caps of all tiers together, if there are several.
    """
    backend = tier.backend
    return PoolLimits(
        min=options.min,
        max=options.max,
        spare=options.spare,
        max_workers=options.max_workers,
        slots_hint=tier.slots_hint,
        idle_after=options.idle_after,
        min_idle_after=options.min_idle_shutdown_after,
        idle_check=options.idle_check is not None,
        single_use=options.single_use,
        max_boot_failures=options.max_boot_failures,
        max_concurrent_boots=boots_at_once(backend),
        shutdown_grace=options.shutdown_timeout,
        packs=packs(options, backend),
        thrifty=options.scaling == "thrifty",
        learns_idle=options.learns_idle,
        caps=shared or caps(backend, [options.budget, backend.budget]),
        tiers=tiers,
    )


def idle_time(seconds: float) -> float | None:
    """Return an idle time as the core has it: None for never, which is infinity for a backend."""
    return None if seconds == inf else seconds


def boots_at_once(backend: Backend) -> int:
    """Return how many boots the backend can run at once. Raises if that, or a request's, is no whole number above 0."""
    whole(backend.max_boots_per_request, f"max_boots_per_request of the {backend.name} backend", 1)
    return whole(backend.max_concurrent_boots, f"max_concurrent_boots of the {backend.name} backend", 1)


def packs(options: PoolOptions, backend: Backend) -> bool:
    """Return whether calls go to the fullest runner of the backend that has room.

    Raises:
        ValueError: the backend's default placement is no placement.
    """
    check = one_of("spread", "pack")
    placement = options.placement or check(
        backend.default_placement(), f"default_placement() of the {backend.name} backend"
    )
    return placement == "pack"


def caps(backend: Backend, budgets: Sequence[Budget | None], prices: Sequence[Budget | None] = ()) -> UsageCaps:
    """Return caps of the backend's runners: of several, the lowest holds.

    Args:
        backend: has the price of a runner, if the user has given none.
        budgets: have the caps. The first that has a price, has the price.
        prices: more budgets that may have a price, or need one because they limit the cost.

    Raises:
        ValueError: the cost is limited and cannot be estimated, or the backend's price is out of range.
    """
    held = [budget for budget in budgets if budget is not None]
    named = [*held, *(budget for budget in prices if budget is not None)]
    price, as_of = next((budget.price for budget in named if budget.price is not None), None), ""
    if price is None:
        # If a price is not a number, the usage never reaches a cap.
        price, as_of = dollars(backend.price(), f"price() of the {backend.name} backend"), backend.prices_as_of()
    if price is None and any(budget.cost is not None for budget in named):
        raise ValueError(
            f"the budget has a cost=, but the {backend.name} backend does not know what a runner costs: give the "
            "budget a price= (US dollars per second of a runner), or limit its machine_time= instead"
        )
    times = [budget.machine_time for budget in held if budget.machine_time is not None]
    costs = [budget.cost for budget in held if budget.cost is not None]
    return UsageCaps(machine_seconds=min(times, default=None), cost=min(costs, default=None), price=price, as_of=as_of)
