"""Pauses between attempts: exponential with jitter, or a tenacity strategy of the user's. The core gets numbers."""

from __future__ import annotations

from collections.abc import Callable

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    Wait: TypeAlias = Callable[[Any], float]

DOUBLINGS = 60
"""Beyond these a pause has long reached its maximum, and a power of two no longer fits a float."""


def exponential(attempt: int, *, first: float = 0.1, most: float = 10.0, jitter: float = 0.1) -> float:
    """Return the seconds to wait after `attempt` attempts have failed (1 for the first), if the user has no strategy.

    These are the pauses of tenacity's ``wait_exponential(multiplier=first, max=most) + wait_random(0, jitter)``.
    tenacity itself brings asyncio, and the first call with retries then takes 200 ms to submit.
    """
    # Loaded when something has failed, or may be tried again: most programs have no use for it.
    from random import uniform

    return min(most, first * 2.0 ** min(attempt - 1, DOUBLINGS)) + uniform(0.0, jitter)  # noqa: S311  # no secret


def delay(wait: Wait | None, attempt: int) -> float:
    """Return the seconds to wait after `attempt` attempts have failed (1 for the first).

    Args:
        wait: the user's strategy, which gets a `tenacity.RetryCallState`; None for `exponential`.
        attempt: how many have failed.
    """
    if wait is None:
        return exponential(attempt)
    import tenacity

    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.attempt_number = attempt
    return max(0.0, float(wait(state)))


def delays(wait: Wait | None, retries: int) -> tuple[float, ...]:
    """Return the pause before each of `retries` further attempts, in seconds."""
    return tuple(delay(wait, attempt) for attempt in range(1, retries + 1))
