"""Runners with room that get no call, because their known ends come too soon for the calls that wait."""

from __future__ import annotations

from math import inf

from dragonfly_executor.core.calls import Call
from dragonfly_executor.core.runner import Runner


class PassedOver:
    """The runners that are passed over for one kind of calls, until a call comes up that has the time there.

    Attributes:
        runners: the runners.
    """

    __slots__ = ("_last_end", "_least_lifetime", "runners")

    def __init__(self) -> None:
        self.runners: list[Runner] = []
        self._last_end = -inf
        self._least_lifetime = inf

    def add(self, runner: Runner) -> None:
        """Add a runner whose end is known."""
        self.runners.append(runner)
        if runner.ends_at is not None:
            self._last_end = max(self._last_end, runner.ends_at)
            self._least_lifetime = min(self._least_lifetime, runner.lifetime)

    def may_take(self, call: Call, now: float) -> bool:
        """Return whether one of these runners may take a call: `runner_endings.fits` is true for one of them."""
        seconds = call.limits.run_timeout
        return seconds is None or seconds <= self._last_end - now or seconds > self._least_lifetime
