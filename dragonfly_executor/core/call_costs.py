"""Durations of calls: the mean of those of one kind, and the calls that run now."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from dragonfly_executor.core.calls import Call
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

MEMORY: Final = 256
"""Number of calls after which older ones count half."""
LONG: Final = 2.0
"""Multiple of the mean after which a running call is long."""
LONG_AT_ONCE: Final = 10.0
"""Multiple of the cap from which on the mean of a key makes its calls long as soon as they are sent."""
LEAST: Final = 1e-6
"""Minimum seconds of a call that an estimate divides by."""
SLACK: Final = 64
"""Number of stale entries up to which the heap is not swept."""


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
    is not expected to be free soon. If the calls of its key take longer, it is long after twice their mean; and at once
    if they take many times the cap.

    Attributes:
        mean: the mean seconds of a call; its value is None before the first call has ended.
        capped: the mean of the seconds of each call, or of `cap` if that is less. A long call counts once it is long.
        cap: seconds with which a call counts in `capped` at most; None until they are known.
        running: when each call was sent, oldest first, without the long calls and those of slow keys.
        long: the calls that are long.
        began_at: when the first of the calls that are here was reported to run, in monotonic seconds; None if none was.
            The runner may take long to start a slot, so a call that was sent need not run.
    """

    __slots__ = ("_dues", "_number", "_slow", "began_at", "cap", "capped", "long", "mean", "running")

    def __init__(self) -> None:
        self.mean = Mean()
        self.capped = Mean()
        self.cap: float | None = None
        self.running: OrderedDict[Call, float] = OrderedDict()
        self.long: set[Call] = set()
        self.began_at: float | None = None
        # Calls whose keys are slow: when each becomes long; and a heap of the same, of which some entries are stale.
        self._slow: dict[Call, float] = {}
        self._dues: list[tuple[float, int, Call]] = []
        self._number = 0

    @property
    def usual(self) -> int:
        """Return the number of calls that run and are not long."""
        return len(self.running) + len(self._slow)

    @property
    def oldest_sent(self) -> float | None:
        """Return when the oldest call of `running` was sent, in monotonic seconds; None if there is none."""
        return next(iter(self.running.values())) if self.running else None

    @property
    def long_after(self) -> float | None:
        """Return after how many seconds a call is long: twice the mean, and the cap. None while there is no cap."""
        return None if self.cap is None else max(self.cap, LONG * (self.mean.value or 0.0))

    def sent(self, calls: Sequence[Call], now: float) -> None:
        """Record that queued calls were sent to a runner."""
        for call in calls:
            self.running[call] = now
            if call.limits.key:
                self._sent_with_key(call)

    def began(self, now: float) -> None:
        """Record that a call was reported to run."""
        if self.began_at is None:
            self.began_at = now

    def ended(self, call: Call, seconds: float) -> None:
        """Record the seconds of a call that ended by itself."""
        self.mean.add(seconds)
        capped = None
        if not self._was_usual(call):
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
        if self._was_usual(call):
            self._left(call)
        else:
            self.long.discard(call)
        if not (self.running or self.long or self._slow):
            self.began_at = None

    def review(self, now: float, after: float) -> None:
        """Note the calls that have run for `after` seconds as long, or for twice the mean of their key if that is more.

        Each call becomes long at most once.
        """
        while self.running:
            call, since = next(iter(self.running.items()))
            if since + after > now:
                break
            del self.running[call]
            due = since + LONG * self._seconds_of_key(call)
            if due > now:
                self._is_slow(call, due)
            else:
                self._becomes_long(call, after)
        while self._dues and self._dues[0][0] <= now:
            due, _, call = heappop(self._dues)
            if self._slow.get(call) == due:
                del self._slow[call]
                self._becomes_long(call, after)

    def next_long(self) -> float | None:
        """Return when the next call becomes long, in monotonic seconds; None if none does."""
        while self._dues and self._slow.get(self._dues[0][2]) != self._dues[0][0]:
            heappop(self._dues)
        first = self._dues[0][0] if self._dues else None
        since, after = self.oldest_sent, self.long_after
        if since is not None and after is not None and (first is None or since + after < first):
            return since + after
        return first

    def _was_usual(self, call: Call) -> bool:
        """Remove a call that has left its slot, and return whether it was not long."""
        return self.running.pop(call, None) is not None or self._slow.pop(call, None) is not None

    def _is_slow(self, call: Call, due: float) -> None:
        """Note a call that is expected to run until `due`, half of the time from its start."""
        self._slow[call] = due
        self._number += 1
        heappush(self._dues, (due, self._number, call))
        if len(self._dues) > 2 * len(self._slow) + SLACK:
            self._dues = [entry for entry in self._dues if self._slow.get(entry[2]) == entry[0]]
            heapify(self._dues)

    def _seconds_of_key(self, call: Call) -> float:
        """Return the mean seconds of the calls of a call's key; 0 if they are unknown."""
        keys, key = call.queue.key_costs, call.limits.key
        return keys.seconds_of(key) if key and keys is not None else 0.0

    def _sent_with_key(self, call: Call) -> None:
        keys, key = call.queue.key_costs, call.limits.key
        if keys is not None:
            keys.sent(key)
            after, cap = self.long_after, self.cap
            if after is not None and cap is not None and keys.seconds_of(key) > max(after, LONG_AT_ONCE * cap):
                del self.running[call]
                self._becomes_long(call, 0.0)

    def _becomes_long(self, call: Call, seconds: float) -> None:
        self.long.add(call)
        if self.cap is not None:
            self.capped.add(self.cap)
        if call.limits.key and call.queue.key_costs is not None:
            call.queue.key_costs.became_long(call.limits.key, seconds, self.cap)

    def _left(self, call: Call) -> None:
        if call.limits.key and call.queue.key_costs is not None:
            call.queue.key_costs.left(call.limits.key)
