"""Durations of boots: the pending ones, and the mean of the last ones that succeeded."""

from __future__ import annotations

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

BOOTS: Final = 8
"""Number of boots over which their time is averaged."""
LEAST: Final = 1e-3
"""Minimum seconds of a boot. With a boot time of 0, each limit that follows from it is 0."""


class BootTimes:
    """The boots of one group of runners.

    Attributes:
        seconds: mean seconds of the last boots that have succeeded; None if none has.
    """

    __slots__ = ("_began", "_count", "_sum", "seconds")

    def __init__(self) -> None:
        self.seconds: float | None = None
        self._count = 0
        # By runner, when its boot began; and the sum of these times.
        self._began: dict[int, float] = {}
        self._sum = 0.0

    def began(self, runner_id: int, now: float) -> None:
        """Record that a runner's node is requested."""
        if runner_id not in self._began:
            self._began[runner_id] = now
            self._sum += now

    def ended(self, runner_id: int, now: float | None = None) -> None:
        """Record that the boot of a runner is over, if it is pending. `now`: the time, if the runner is up."""
        began = self._began.pop(runner_id, None)
        if began is None:
            return
        self._sum = self._sum - began if self._began else 0.0
        if now is not None:
            self._count = min(self._count + 1, BOOTS)
            taken, seconds = max(now - began, LEAST), self.seconds
            self.seconds = taken if seconds is None else seconds + (taken - seconds) / self._count

    def spent(self, now: float) -> float:
        """Return for how many seconds the pending boots have been under way, in total."""
        return len(self._began) * now - self._sum
