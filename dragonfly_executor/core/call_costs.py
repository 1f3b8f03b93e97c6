"""Durations of calls: the mean of those of one kind, and the calls that run now."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from dragonfly_executor.core.calls import Call
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

MEMORY: Final = 256
"""Number of calls after which older ones count half."""


class Mean:
    """A running mean of which older values count less and less.

    Attributes:
        value: the mean; None before the first value.
    """

    __slots__ = ("_count", "_sum", "value")

    def __init__(self) -> None:
        self._count = 0.0
        self._sum = 0.0
        self.value: float | None = None

    def add(self, value: float) -> None:
        """Add a value."""
        self._count += 1
        self._sum += value
        self.value = self._sum / self._count
        if self._count >= MEMORY:
            self._count /= 2
            self._sum /= 2


class CallCosts:
    """The seconds of one kind's calls.

    A call that has run for longer than usual is *long*, once `review` has found it: its slot is not expected to be free
    soon. One long call changes the mean of all calls a lot. So there is a second mean, in which a call counts with its
    seconds up to a cap, and counts once it is known to have reached the cap.

    Attributes:
        mean: the mean seconds of a call; its value is None before the first call has ended.
        capped: the mean of the seconds of each call, or of `cap` if that is less.
        cap: seconds with which a call counts in `capped` at most. No call counts there while it is None.
        running: when each call was sent, oldest first, without the long calls.
        long: the calls that are long.
    """

    __slots__ = ("cap", "capped", "long", "mean", "running")

    def __init__(self) -> None:
        self.mean = Mean()
        self.capped = Mean()
        self.cap: float | None = None
        self.running: OrderedDict[int, float] = OrderedDict()
        self.long: set[int] = set()

    @property
    def oldest_running(self) -> float | None:
        """Return since when the call has run that was sent first, in monotonic seconds; long calls do not count."""
        return next(iter(self.running.values())) if self.running else None

    def sent(self, calls: Sequence[Call], now: float) -> None:
        """Record that calls were sent to a runner."""
        for call in calls:
            self.running[call.id] = now

    def ended(self, call: Call, seconds: float) -> None:
        """Record that a call ended by itself after so many seconds."""
        self.mean.add(seconds)
        if self.running.pop(call.id, None) is None:
            self.long.discard(call.id)
        elif self.cap is not None:
            self.capped.add(min(seconds, self.cap))

    def left(self, call: Call) -> None:
        """Record that a call has left its slot in another way."""
        if self.running.pop(call.id, None) is None:
            self.long.discard(call.id)

    def review(self, now: float, after: float) -> None:
        """Note the calls that have become long: those that have run for `after` seconds.

        Each call becomes long at most once, so this takes no longer than the calls that it concerns.
        """
        while self.running:
            call_id, since = next(iter(self.running.items()))
            if since + after > now:
                return
            del self.running[call_id]
            self.long.add(call_id)
            if self.cap is not None:
                self.capped.add(self.cap)
