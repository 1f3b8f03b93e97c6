"""The calls of one kind that wait for a slot, or for the end of a retry's delay.

No operation searches a queue or heap. An entry of a settled call is skipped when it comes up, and all such entries are
removed once they outnumber the valid ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import islice
from math import inf

from dragonfly_executor.core.calls import DELAYED, QUEUED, Call, QueueCounts, QueueTotal
from dragonfly_executor.core.key_costs import KeyCosts
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final, TypeAlias

SLACK: Final = 64
"""Number of stale entries up to which a queue or heap is not swept."""
LOOKAHEAD: Final = 32
"""Number of calls among which a runner with a free slot looks for a call of a key that ran there."""
Entry: TypeAlias = tuple[float, int, Call]
"""An entry of a heap: the negative priority of a call, its place among those of this priority, and the call."""
DEPTH: Final = 2**64
"""Difference in place between calls of one depth and of the next depth. It is larger than any id."""


def _place(call: Call) -> int:
    """Return the place of a call among those of its priority: the deepest first, then in order of arrival."""
    return call.id - call.depth * DEPTH if call.depth else call.id


class CallQueue(QueueCounts):
    """Calls that wait: larger priority first. Within one priority, child calls first, and others in order of arrival.

    Settling a call lowers the counts of its queue. The call's entry stays in the queue until it comes up.

    Args:
        live: the unsettled calls by id.
        total: the counts of all queues together.
        measures_keys: measure how long calls of each key take.

    Attributes:
        delays: a heap of (end, id) of the calls that wait for a retry's delay. It holds ids and not calls: otherwise a
            settled call's token, with its result, lives as long as its delay.
        has_keys: True if a call with a key may be in the queue.
        overtaken: how often in a row a later call was taken before the first one.
    """

    __slots__ = ("_early", "_fresh", "_late", "_live", "delays", "has_keys", "overtaken")

    def __init__(self, live: Mapping[int, Call], total: QueueTotal, *, measures_keys: bool = False) -> None:
        super().__init__(total, KeyCosts() if measures_keys else None)
        self._live = live
        # Every call in `_early` comes before every call in `_fresh`: it has a larger priority, or the same one and
        # arrived earlier. The calls in `_late` have a priority below 0. So the three together are in order. `settled`
        # is the exact number of stale entries: the calls among which a runner looks must not depend on when the queue
        # was asked for its next call.
        self._early: list[Entry] = []
        self._fresh: deque[Call] = deque()
        self._late: list[Entry] = []
        self.delays: list[tuple[float, int]] = []
        self.has_keys = False
        self.overtaken = 0

    def add(self, calls: Sequence[Call]) -> None:
        """Append calls of priority 0 that arrived after all others. The caller has set their `queue` and `state`."""
        self._fresh.extend(calls)
        self.queued += len(calls)
        self.total.queued += len(calls)

    def add_by_priority(self, call: Call) -> None:
        """Add a call that has a priority or a depth, and came after all others. Its `queue` and `state` are set."""
        self.queued += 1
        self.total.queued += 1
        self._push(call)

    def put_back(self, call: Call) -> None:
        """Return a call that was sent before to its place in the queue."""
        call.state = QUEUED
        call.runner = None
        call.queue = self
        self.queued += 1
        self.total.queued += 1
        if call.limits.key:
            self.note_key(call.limits.key)
        self._drop_settled()
        if not (call.limits.priority or call.depth) and self._fresh and self._fresh[0].id < call.id:
            self._return_to_fresh(call)
        else:
            self._push(call)

    def note_key(self, key: int) -> None:
        """Note that a call with a key comes into the queue."""
        self.has_keys = True
        if self.key_costs is not None:
            self.key_costs.queued(key)

    def _push(self, call: Call) -> None:
        priority = call.limits.priority
        heappush(self._late if priority < 0 else self._early, (-priority, _place(call), call))

    def _return_to_fresh(self, call: Call) -> None:
        """Return a call to its place in `_fresh`. It was taken before calls that came earlier."""
        fresh = self._fresh
        if fresh[-1].id < call.id:
            fresh.append(call)
            return
        behind = (at for at, other in enumerate(islice(fresh, LOOKAHEAD)) if other.id > call.id)
        place = next(behind, len(fresh))
        if place <= LOOKAHEAD:
            fresh.insert(place, call)
            return
        # Many such calls have come back. Finding the place of each of them takes too long.
        while fresh and fresh[0].id < call.id:
            passed = fresh.popleft()
            if passed.state is QUEUED:
                self._push(passed)
            else:
                self.settled -= 1
        self._push(call)

    def _drop_settled(self) -> None:
        """Drop the entries of settled calls that are in front."""
        early, fresh, late = self._early, self._fresh, self._late
        while early and early[0][2].state is not QUEUED:
            heappop(early)
            self.settled -= 1
        while fresh and fresh[0].state is not QUEUED:
            fresh.popleft()
            self.settled -= 1
        while late and late[0][2].state is not QUEUED:
            heappop(late)
            self.settled -= 1

    def delay(self, call: Call, until: float) -> None:
        """Add a call that was sent before, and queue it at `until` (monotonic seconds)."""
        call.state = DELAYED
        call.runner = None
        call.queue = self
        self.delayed += 1
        self.total.delayed += 1
        heappush(self.delays, (until, call.id))

    def take(self, count: int) -> list[Call]:
        """Remove and return the next calls, at most ``count``. The caller places them."""
        fresh, queued = self._fresh, self.queued
        count = min(count, queued)
        self.queued = queued - count
        self.total.queued -= count
        self.overtaken = 0
        if len(fresh) == queued and not self._early and not self._late:
            return [fresh.popleft()] if count == 1 else [fresh.popleft() for _ in range(count)]
        early, late = self._early, self._late
        taken: list[Call] = []
        while len(taken) < count:
            call = heappop(early)[2] if early else fresh.popleft() if fresh else heappop(late)[2]
            if call.state is QUEUED:
                taken.append(call)
            else:
                self.settled -= 1
        return taken

    def take_for(self, runner_id: int, homes: Mapping[int, int], members: Container[int], at_most: int) -> Call:
        """Remove and return the call that a runner with room takes, and that the caller places there.

        That is the first of the next `LOOKAHEAD` calls whose key is at home on the runner, or nowhere, or that has no
        key. If there is none, it is the next call. At least one call must be queued.

        Args:
            runner_id: the runner.
            homes: by key, the runner to which a call with this key was sent last.
            members: the runners that calls of this queue may go to. Any other runner is no home.
            at_most: how many calls in a row may be taken before the next call.
        """
        self.first()
        # Only calls of priority 0 that were not sent before are checked.
        if not self._early and self.overtaken < at_most:
            fresh, home_of = self._fresh, homes.get
            for index, call in enumerate(islice(fresh, LOOKAHEAD)):
                home = home_of(call.limits.key, 0)
                if (home == runner_id or home not in members) and call.state is QUEUED:
                    if not index:
                        break
                    del fresh[index]
                    self.queued -= 1
                    self.total.queued -= 1
                    self.overtaken += 1
                    return call
        return self.take(1)[0]

    def take_fitting(self, fits: Callable[[Call], bool]) -> Call | None:
        """Remove and return the first call that fits among the next `LOOKAHEAD` calls; None if none of them does.

        The caller places it.

        Args:
            fits: tells whether a call fits. Of calls that were sent before, or have a priority, only the first is asked
                about.
        """
        first = self.first()
        if first is None or fits(first):
            return None if first is None else self.take(1)[0]
        for index, call in enumerate(islice(self._fresh, LOOKAHEAD)):
            if call.state is QUEUED and fits(call):
                del self._fresh[index]
                self.queued -= 1
                self.total.queued -= 1
                return call
        return None

    def first(self) -> Call | None:
        """Return the next call; None if no call is queued."""
        self._drop_settled()
        if self._early:
            return self._early[0][2]
        if self._fresh:
            return self._fresh[0]
        return self._late[0][2] if self._late else None

    def next_few(self) -> Iterator[Call]:
        """Yield the calls from which `take_fitting` takes one: the next call, and the further calls that it checks."""
        first = self.first()
        if first is not None:
            yield first
            for call in islice(self._fresh, LOOKAHEAD):
                if call.state is QUEUED and call is not first:
                    yield call

    def waits_since(self) -> float | None:
        """Return since when calls have waited for their turn, in monotonic seconds; None if no call is queued.

        Of the calls with a priority above 0, at 0 and below it, the first counts: others may come before it for ever.
        """
        first = self.first()
        if first is None:
            return None
        heads = (first, *islice(self._fresh, 1), *[entry[2] for entry in self._late[:1]])
        return min([call.waits_since for call in heads])

    def turn(self) -> tuple[float, float]:
        """Return the place of the next call in the order of all queues: the smaller value comes first."""
        call = self.first()
        return (inf, inf) if call is None else (-call.limits.priority, _place(call))

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
        """Yield all calls, in order, that are still in the queue when each comes up.

        The caller must not add or take calls once the iteration has begun. It may settle calls.
        """
        live = self._live
        for call_id in (*self.dependent, *[call_id for _, call_id in self.delays]):
            if call_id in live:
                self._push(live[call_id])
        self.delays = []
        early, fresh, late = self._early, self._fresh, self._late
        while early or fresh or late:
            call = heappop(early)[2] if early else fresh.popleft() if fresh else heappop(late)[2]
            if call.state <= DELAYED:
                yield call

    def sweep(self) -> None:
        """Drop stale entries: those in front at once, all others once they outnumber the valid ones."""
        self._drop_settled()
        if self.settled > self.queued + SLACK:
            self.settled = 0
            self._fresh = deque(call for call in self._fresh if call.state is QUEUED)
            for heap in (self._early, self._late):
                heap[:] = [entry for entry in heap if entry[2].state is QUEUED]
                heapify(heap)
        if len(self.delays) > 2 * self.delayed + SLACK:
            live = self._live
            self.delays = [entry for entry in self.delays if entry[1] in live]
            heapify(self.delays)
