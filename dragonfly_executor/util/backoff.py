"""Pauses between attempts, by exponential backoff with jitter or by the user's tenacity strategy.

The core gets the pauses as numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    Wait: TypeAlias = Callable[[Any], float]

DRAWN = 32
"""Number of pauses that are drawn for a call. The last of them has long reached the maximum."""
RANDOM_BYTES = 4
DOUBLINGS = 60
"""Maximum number of doublings. Above it, the pause has long reached its maximum, and the power overflows a float."""


def exponential(attempt: int, *, first: float = 0.1, most: float = 10.0, jitter: float = 0.1) -> float:
    """Return the default pause after `attempt` failed attempts, in seconds.

    The pauses equal tenacity's ``wait_exponential(multiplier=first, max=most) + wait_random(0, jitter)``.
    tenacity itself imports asyncio, and with it the first submit with retries takes 200 ms.

    Args:
        attempt: number of failed attempts, at least 1.
        first: pause after the first attempt, in seconds.
        most: maximum pause before jitter, in seconds.
        jitter: upper bound of the random time that is added, in seconds.
    """
    # Not `random`: most programs load it for this alone, and the engine must not import anything while something fails.
    share = int.from_bytes(os.urandom(RANDOM_BYTES), "big") / (1 << 8 * RANDOM_BYTES)
    return min(most, first * 2.0 ** min(attempt - 1, DOUBLINGS)) + jitter * share


def prepare(wait: Wait | None) -> None:
    """Import the modules that `delay` needs for this strategy, so that `delay` works when imports fail."""
    if wait is not None:
        _tenacity()


def _tenacity() -> Any:
    return import_module("tenacity")


def delay(wait: Wait | None, attempt: int) -> float:
    """Return the pause after `attempt` failed attempts, in seconds.

    Args:
        wait: the user's strategy, which gets a `tenacity.RetryCallState`; None for `exponential`.
        attempt: number of failed attempts, at least 1.
    """
    if wait is None:
        return exponential(attempt)
    tenacity = _tenacity()
    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.attempt_number = attempt
    return max(0.0, float(wait(state)))


def delays(wait: Wait | None, retries: int) -> tuple[float, ...]:
    """Return the pause before each of `retries` further attempts, in seconds.

    At most `DRAWN` pauses are returned, because they are drawn at each submit and ``retries=10**9`` is allowed.
    The last pause stands for all that follow.
    """
    return tuple(delay(wait, attempt) for attempt in range(1, min(retries, DRAWN) + 1))
