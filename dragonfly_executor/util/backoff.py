"""Pauses between attempts: exponential with jitter, or a tenacity strategy of the user's. The core gets numbers."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    Wait: TypeAlias = Callable[[Any], float]

DRAWN = 32
"""Pauses that are drawn for a call. By then they have long reached their maximum."""
RANDOM_BYTES = 4
DOUBLINGS = 60
"""Beyond these a pause has long reached its maximum, and a power of two no longer fits a float."""


def exponential(attempt: int, *, first: float = 0.1, most: float = 10.0, jitter: float = 0.1) -> float:
    """Return the seconds to wait after `attempt` attempts have failed (1 for the first), if the user has no strategy.

    These are the pauses of tenacity's ``wait_exponential(multiplier=first, max=most) + wait_random(0, jitter)``.
    tenacity itself brings asyncio, and the first call with retries then takes 200 ms to submit.
    """
    # Not `random`: most programs would load it for this alone, and the engine must import nothing when something fails.
    share = int.from_bytes(os.urandom(RANDOM_BYTES), "big") / (1 << 8 * RANDOM_BYTES)
    return min(most, first * 2.0 ** min(attempt - 1, DOUBLINGS)) + jitter * share


def prepare(wait: Wait | None) -> None:
    """Load what `delay` needs for this strategy, so that it can be asked while nothing can be imported."""
    if wait is not None:
        _tenacity()


def _tenacity() -> Any:
    return import_module("tenacity")


def delay(wait: Wait | None, attempt: int) -> float:
    """Return the seconds to wait after `attempt` attempts have failed (1 for the first).

    Args:
        wait: the user's strategy, which gets a `tenacity.RetryCallState`; None for `exponential`.
        attempt: how many have failed.
    """
    if wait is None:
        return exponential(attempt)
    tenacity = _tenacity()
    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.attempt_number = attempt
    return max(0.0, float(wait(state)))


def delays(wait: Wait | None, retries: int) -> tuple[float, ...]:
    """Return the pause before each of `retries` further attempts, in seconds; the last one stands for all that follow.

    They are drawn for each call as it is submitted, and some people say ``retries=10**9``.
    """
    return tuple(delay(wait, attempt) for attempt in range(1, min(retries, DRAWN) + 1))
