"""The calls of one kind that wait for a slot, or for the end of a retry's delay.

No operation searches a queue or heap. An entry of a settled call is skipped when it comes up, and all such entries are
removed once they outnumber the valid ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush

from dragonfly_executor.core.calls import DELAYED, QUEUED, Call, QueueCounts, QueueTotal
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

SLACK: Final = 64
"""Number of stale entries up to which a queue or heap is not swept."""


class CallQueue(QueueCounts):
    """Calls that wait, in order of arrival.

    Settling a call lowers the counts of its queue. The call's entry stays in the queue until it comes up.

    Args:
        live: the unsettled calls by id.
        total: the counts of all queues together.

    Attributes:
        delays: a heap of (end, id) of the calls that wait for a retry's delay. It holds ids and not calls: otherwise a
            settled call's token, with its result, lives as long as its delay.
    """

    __slots__ = ("_again", "_fresh", "_live", "delays")

    def __init__(self, live: Mapping[int, Call], total: QueueTotal) -> None:
        super().__init__(total)
        self._live = live
        # Every call in `_again` arrived before every call in `_fresh`. So both together are in order of arrival.
        self._again: list[tuple[int, Call]] = []
        self._fresh: deque[Call] = deque()
        self.delays: list[tuple[float, int]] = []

    def add(self, calls: Sequence[Call]) -> None:
        """Append calls that arrived after all others. The caller has set their `queue` and `state`."""
        self._fresh.extend(calls)
        self.queued += len(calls)
        self.total.queued += len(calls)

    def put_back(self, call: Call) -> None:
        """Return a call that was sent before to its place in the order of arrival."""
        call.state = QUEUED
        call.runner = None
        call.queue = self
        self.queued += 1
        self.total.queued += 1
        heappush(self._again, (call.id, call))

    def delay(self, call: Call, until: float) -> None:
        """Add a call that was sent before, and queue it at `until` (monotonic seconds)."""
        call.state = DELAYED
        call.runner = None
        call.queue = self
        self.delayed += 1
        self.total.delayed += 1
        heappush(self.delays, (until, call.id))

    def take(self, count: int) -> list[Call]:
        """Remove and return the next calls in order of arrival, at most ``count``. The caller places them."""
        fresh, queued = self._fresh, self.queued
        count = min(count, queued)
        self.queued = queued - count
        self.total.queued -= count
        if not self._again and len(fresh) == queued:
            return [fresh.popleft()] if count == 1 else [fresh.popleft() for _ in range(count)]
        taken: list[Call] = []
        while len(taken) < count:
            call = heappop(self._again)[1] if self._again else fresh.popleft()
            if call.state is QUEUED:
                taken.append(call)
        return taken

    def first(self) -> int | None:
        """Return the id of the next call, which is the one that arrived first; None if no call is queued."""
        again, fresh = self._again, self._fresh
        while again and again[0][1].state is not QUEUED:
            heappop(again)
        if again:
            return again[0][0]
        while fresh and fresh[0].state is not QUEUED:
            fresh.popleft()
        return fresh[0].id if fresh else None

    def part(self) -> None:
        """Take the calls out of the counts of all queues together: they are given up."""
        total, self.total = self.total, QueueTotal()
        total.queued -= self.queued
        total.delayed -= self.delayed

    def release(self, now: float, at_most: int) -> int:
        """Queue at most `at_most` calls whose delay has ended, and return how many more may follow."""
        delays = self.delays
        while at_most and delays and delays[0][0] <= now:
            call = self._live.get(heappop(delays)[1])
            if call is not None:
                at_most -= 1
                self.delayed -= 1
                self.total.delayed -= 1
                self.put_back(call)
        return at_most

    def next_release(self) -> float | None:
        """Return when the next delay ends, in monotonic seconds; None if no call is delayed."""
        delays = self.delays
        while delays and delays[0][1] not in self._live:
            heappop(delays)
        return delays[0][0] if delays else None

    def all(self) -> Iterator[Call]:
        """Yield all calls, in order of arrival, that are still in the queue when each comes up.

        The caller must not add or take calls once the iteration has begun. It may settle calls.
        """
        live, again = self._live, self._again
        again += ((call_id, live[call_id]) for _, call_id in self.delays if call_id in live)
        self.delays = []
        heapify(again)
        while again:
            call = heappop(again)[1]
            if call.state <= DELAYED:
                yield call
        fresh = self._fresh
        while fresh:
            call = fresh.popleft()
            if call.state is QUEUED:
                yield call

    def sweep(self) -> None:
        """Drop stale entries: those in front at once, all others once they outnumber the valid ones."""
        fresh = self._fresh
        while fresh and fresh[0].state is not QUEUED:
            fresh.popleft()
            self.settled -= 1
        if self.settled > self.queued + SLACK:
            self.settled = 0
            self._fresh = deque(call for call in fresh if call.state is QUEUED)
            self._again = [entry for entry in self._again if entry[1].state is QUEUED]
            heapify(self._again)
        if len(self.delays) > 2 * self.delayed + SLACK:
            live = self._live
            self.delays = [entry for entry in self.delays if entry[1] in live]
            heapify(self.delays)
