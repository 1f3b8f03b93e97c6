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
LONG: Final = 2.0
"""Multiple of the mean after which a running call is long."""


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

    One long call changes the mean of all calls a lot. So there is a second mean, in which a call counts with its
    seconds up to a cap. A call that runs for much longer than the mean is *long*, once `review` has noted it: its slot
    is not expected to be free soon. If the calls of its key take that long on average, it is long at once.

    Attributes:
        mean: the mean seconds of a call; its value is None before the first call has ended.
        capped: the mean of the seconds of each call, or of `cap` if that is less. A long call counts once it is long.
        cap: seconds with which a call counts in `capped` at most; None until they are known.
        running: when each call was sent, oldest first, without the long calls.
        long: the calls that are long.
    """

    __slots__ = ("cap", "capped", "long", "mean", "running")

    def __init__(self) -> None:
        self.mean = Mean()
        self.capped = Mean()
        self.cap: float | None = None
        self.running: OrderedDict[Call, float] = OrderedDict()
        self.long: set[Call] = set()

    @property
    def oldest_running(self) -> float | None:
        """Return since when the call has run that was sent first, in monotonic seconds; long calls do not count."""
        return next(iter(self.running.values())) if self.running else None

    @property
    def long_after(self) -> float | None:
        """Return after how many seconds a call is long: twice the mean, and the cap. None while there is no cap."""
        return None if self.cap is None else max(self.cap, LONG * (self.mean.value or 0.0))

    def sent(self, calls: Sequence[Call], now: float) -> None:
        """Record that queued calls were sent to a runner."""
        for call in calls:
            self.running[call] = now
            if call.limits.key and call.queue.key_costs is not None:
                self._sent_with_key(call)

    def ended(self, call: Call, seconds: float) -> None:
        """Record that a call ended by itself after so many seconds."""
        self.mean.add(seconds)
        capped = None
        if self.running.pop(call, None) is None:
            self.long.discard(call)
        else:
            if self.cap is not None:
                capped = min(seconds, self.cap)
                self.capped.add(capped)
            self._left(call)
        if call.limits.key and call.queue.key_costs is not None:
            call.queue.key_costs.ended(call.limits.key, seconds, capped)

    def left(self, call: Call) -> None:
        """Record that a call has left its slot in another way."""
        if self.running.pop(call, None) is None:
            self.long.discard(call)
        else:
            self._left(call)

    def review(self, now: float, after: float) -> None:
        """Note the calls that have run for `after` seconds as long. Each call becomes long at most once."""
        while self.running:
            call, since = next(iter(self.running.items()))
            if since + after > now:
                return
            self._becomes_long(call, after)

    def _sent_with_key(self, call: Call) -> None:
        keys, key = call.queue.key_costs, call.limits.key
        if keys is not None:
            keys.sent(key)
            after = self.long_after
            if after is not None and keys.seconds_of(key) > after:
                self._becomes_long(call, 0.0)

    def _becomes_long(self, call: Call, seconds: float) -> None:
        del self.running[call]
        self.long.add(call)
        if self.cap is not None:
            self.capped.add(self.cap)
        if call.limits.key and call.queue.key_costs is not None:
            call.queue.key_costs.became_long(call.limits.key, seconds, self.cap)

    def _left(self, call: Call) -> None:
        if call.limits.key and call.queue.key_costs is not None:
            call.queue.key_costs.left(call.limits.key)
