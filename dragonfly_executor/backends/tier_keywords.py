"""The types of the limits that each backend takes by keyword, for type checkers and editors.

No pool loads this module. The checks are in `backends/tier_limits.py`.
"""

from __future__ import annotations

from typing import TypedDict

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.backends.budget import Budget
    from dragonfly_executor.util.validation import Seconds


class TierKeywords(TypedDict, total=False):
    """Limits for the runners of one backend; see `Backend.set_limits`."""

    max: int | None
    idle_shutdown_after: Seconds | None
    budget: Budget | None
