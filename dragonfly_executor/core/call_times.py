"""The times that the latest calls of a pool have waited and run."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from dragonfly_executor.core.record import Record
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

LATEST: Final = 1024
"""Number of calls whose times are kept. A call costs two appends; quantiles are computed when they are asked for."""


class Quantiles(Record):
    """The median and the 95th percentile of some times, in seconds."""

    __slots__ = __match_args__ = ("p50", "p95")

    def __init__(self, p50: float, p95: float) -> None:
        self.p50 = p50
        self.p95 = p95

    @classmethod
    def of(cls, times: Collection[float]) -> Quantiles | None:
        """Return the quantiles of these times; None if there are none. A time below 0 counts as 0."""
        if not times:
            return None
        ordered = sorted(times)
        last = len(ordered) - 1
        # The nearest rank: a time that a call has taken.
        return cls(max(0.0, ordered[last // 2]), max(0.0, ordered[-(-last * 95 // 100)]))


class CallTimes:
    """The times of the latest calls that ended with an answer from a runner, in seconds.

    Attributes:
        runs: how long the function ran, as its slot has measured it.
        waits: the time from the submit to the answer, less the run: waiting, sending and answering. For a retry it
            counts from the end of its delay.
    """

    __slots__ = ("runs", "waits")

    def __init__(self) -> None:
        self.runs: deque[float] = deque(maxlen=LATEST)
        self.waits: deque[float] = deque(maxlen=LATEST)
