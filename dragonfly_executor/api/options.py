"""A pool's options: the user's, completed by its backend.

The option classes are in `engine.options`, because the engine reads them.
"""

from __future__ import annotations

from dragonfly_executor.core.usage import UsageCaps
from dragonfly_executor.engine.budget import Budget
from dragonfly_executor.engine.option_checks import one_of
from dragonfly_executor.engine.options import CallOptions, PoolOptions
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.validation import dollars, whole

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.backends.base import Backend
    from dragonfly_executor.core.machine import PoolLimits

__all__ = ["CallOptions", "PoolOptions", "caps", "core_limits", "default_max", "read_options"]


def read_options(name: str, backend: Backend, options: dict[str, Any]) -> PoolOptions:
    """Split the user's options into those of the pool and those of the calls.

    Raises:
        TypeError: there is no such option, or its value has the wrong type.
        ValueError: a value is out of range.
    """
    for key in options:
        if key not in PoolOptions.OPTIONS and key not in CallOptions.OPTIONS:
            known = sorted({*PoolOptions.OPTIONS, *CallOptions.OPTIONS})
            raise TypeError(f"no such option: {key!r}; the options are {', '.join(known)}")
    calls = {key: options.pop(key) for key in list(options) if key in CallOptions.OPTIONS}
    options.setdefault("boot_timeout", backend.default_boot_timeout)
    options["max"] = default_max(backend, options.get("max"))
    one_local_runner = backend.name == "local" and options["max"] == 1
    if one_local_runner and options.get("max_workers") and options.get("max_concurrency") is None:
        options["max_concurrency"] = options["max_workers"]
    return PoolOptions(name, CallOptions(**calls), options)


def core_limits(options: PoolOptions, backend: Backend) -> PoolLimits:
    """Return the options that the core enforces, completed by the backend."""
    from dragonfly_executor.core.machine import PoolLimits

    whole(backend.max_boots_per_request, f"max_boots_per_request of the {backend.name} backend", 1)
    return PoolLimits(
        min=options.min,
        max=options.max,
        max_workers=options.max_workers,
        slots_hint=options.max_concurrency or backend.default_slots() or 1,
        idle_after=options.idle_after,
        min_idle_after=options.min_idle_shutdown_after,
        idle_check=options.idle_check is not None,
        single_use=options.single_use,
        max_boot_failures=options.max_boot_failures,
        max_concurrent_boots=whole(
            backend.max_concurrent_boots, f"max_concurrent_boots of the {backend.name} backend", 1
        ),
        shutdown_grace=options.shutdown_timeout,
        packs=(options.placement or _default_placement(backend)) == "pack",
        thrifty=options.scaling == "thrifty",
        learns_idle=options.learns_idle,
        caps=caps(options.budget, backend),
    )


def _default_placement(backend: Backend) -> str:
    """Return the backend's default placement.

    Raises:
        ValueError: it is no placement.
    """
    placement = one_of("spread", "pack")(
        backend.default_placement(), f"default_placement() of the {backend.name} backend"
    )
    return placement or "spread"


def default_max(backend: Backend, max_runners: int | None) -> int:
    """Return the `max` of a pool: the user's, otherwise the backend's.

    Raises:
        ValueError: neither has one.
    """
    if max_runners is not None:
        return max_runners
    if backend.default_max is None:
        raise ValueError(
            f"max is required with the {backend.name} backend: set it to the most runners that may be up at once"
        )
    return backend.default_max


def caps(budget: Budget | None, backend: Backend) -> UsageCaps:
    """Return the caps that the core enforces.

    Raises:
        ValueError: a cost was given that cannot be estimated, or the backend's price is out of range.
    """
    if budget is not None and budget.price is not None:
        return UsageCaps(machine_seconds=budget.machine_time, cost=budget.cost, price=budget.price)
    # With a price that is not a number, the use would never reach a cap.
    price, as_of = dollars(backend.price(), f"price() of the {backend.name} backend"), backend.prices_as_of()
    if budget is None:
        return UsageCaps(price=price, as_of=as_of)
    if budget.cost is not None and price is None:
        raise ValueError(
            f"the budget has a cost=, but the {backend.name} backend does not know what a runner costs: give the "
            "budget a price= (US dollars per second of a runner), or limit its machine_time= instead"
        )
    return UsageCaps(machine_seconds=budget.machine_time, cost=budget.cost, price=price, as_of=as_of)
