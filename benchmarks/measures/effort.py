"""How long a measurement goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Figures = dict[str, Any]
"""Figures by row: in seconds, bytes, or a rate per second; other keys are details."""


@dataclass(frozen=True)
class Effort:
    """The length of a measurement.

    Attributes:
        seconds: a rate is counted over at least this long.
        share: of the usual number of calls.
    """

    seconds: float = 0.6
    share: float = 1.0

    def count(self, usual: int, speed: float = 1.0) -> int:
        """Return a number of calls."""
        return max(4, int(usual * self.share * speed))

    def rate(self, many: Callable[[], int]) -> float:
        """Return how much `many` does per second. It returns how much it has done."""
        done, start = 0, time.perf_counter()
        while (taken := time.perf_counter() - start) < self.seconds or not done:
            done += many()
        return done / taken


QUICK = Effort(0.02, 0.02)
"""For a look at whether everything runs; such figures say nothing."""


@dataclass(frozen=True)
class Setting:
    """What a measurement starts, and for how long it goes on.

    Attributes:
        subject: its name.
        workers: number of concurrent calls.
        effort: the length of the measurement.
    """

    subject: str
    workers: int
    effort: Effort
