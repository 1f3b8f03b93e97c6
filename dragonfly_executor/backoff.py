"""Pauses between attempts, drawn from tenacity's wait strategies. The core gets numbers only."""

from __future__ import annotations

from collections.abc import Callable

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    Wait: TypeAlias = Callable[[Any], float]


def delay(wait: Wait | None, attempt: int) -> float:
    """Seconds to wait after `attempt` attempts have failed (1 for the first)."""
    # Loaded when something has failed: a program in which nothing fails has no use for it.
    import tenacity

    strategy = wait or tenacity.wait_exponential(multiplier=0.1, max=10.0) + tenacity.wait_random(0.0, 0.1)
    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.attempt_number = attempt
    return max(0.0, float(strategy(state)))


def delays(wait: Wait | None, retries: int) -> tuple[float, ...]:
    """The pause before each of `retries` further attempts."""
    return tuple(delay(wait, attempt) for attempt in range(1, retries + 1))
