"""How long a boot may still take."""

from __future__ import annotations

import time


class Deadline:
    """Until when something has to be done."""

    def __init__(self, seconds: float) -> None:
        self._when = time.monotonic() + seconds

    def left(self, at_most: float = float("inf")) -> float:
        """Seconds that are left, but never none: what is late fails by itself, and says of what."""
        return max(0.01, min(at_most, self._when - time.monotonic()))

    @property
    def is_over(self) -> bool:
        """Whether nothing is left."""
        return time.monotonic() >= self._when
