"""Checks of the limits that a user sets for the runners of one backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dragonfly_executor.backends.budget import budget_or_none
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.validation import duration, whole

if TYPE_CHECKING:
    from typing import Any, Final

CHECKS: Final[Mapping[str, Callable[[Any, str], object]]] = {
    "max": lambda value, name: whole(value, name, 1),
    "idle_shutdown_after": duration,
    "budget": budget_or_none,
}
"""The check of each limit. It gets a value and the limit's name, and returns the value to keep, or raises."""


def checked_limits(backend: str, limits: Mapping[str, Any]) -> dict[str, Any]:
    """Return the limits that are not None, checked.

    Args:
        backend: the name of the backend's class, for error texts.
        limits: limits by their names.

    Raises:
        TypeError: a value has the wrong type, or there is no such limit.
        ValueError: a value is out of range.
    """
    for name in limits:
        if name not in CHECKS:
            raise TypeError(f"{backend}() got an unexpected keyword argument {name!r}")
    return {name: CHECKS[name](value, name) for name, value in limits.items() if value is not None}
