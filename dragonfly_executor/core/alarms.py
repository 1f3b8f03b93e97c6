"""Alarms: the times at which the core must check calls, earliest first."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final, TypeAlias

Alarm: TypeAlias = tuple[float, int]
"""The time in monotonic seconds, and the call's id."""
LANES: Final = 8


class Alarms:
    """Alarms ordered by time, then by call id.

    Calls with the same timeout expire in the order in which they began. So most alarms are later than the previous
    alarm, and are appended to a lane, which stays sorted. A heap of a million alarms does not fit the processor's cache
    and costs each event some microseconds. Only an alarm that fits no lane goes to a heap.

    Attributes:
        first: the earliest alarm; None if there is none.
        count: number of alarms.
    """

    __slots__ = ("_heap", "_lanes", "count", "first")

    def __init__(self) -> None:
        self.first: Alarm | None = None
        self.count = 0
        self._lanes: list[deque[Alarm]] = []  # a lane is removed when it is empty
        self._heap: list[Alarm] = []

    def add(self, when: float, call_id: int) -> None:
        """Add an alarm.

        Args:
            when: monotonic seconds.
            call_id: the call to check at that time.
        """
        alarm = (when, call_id)
        self.count += 1
        if self.first is None or alarm < self.first:
            self.first = alarm
        for lane in self._lanes:
            if lane[-1] <= alarm:
                lane.append(alarm)
                return
        if len(self._lanes) < LANES:
            self._lanes.append(deque((alarm,)))
        else:
            heappush(self._heap, alarm)

    def drop(self) -> None:
        """Remove the earliest alarm. There must be one."""
        first = self.first
        self.count -= 1
        for lane in self._lanes:
            if lane[0] is first:
                lane.popleft()
                if not lane:
                    self._lanes.remove(lane)
                break
        else:
            heappop(self._heap)
        self._find_first()

    def keep(self, counts: Callable[[Alarm], bool]) -> None:
        """Remove all alarms for which `counts` returns False."""
        lanes = [deque(alarm for alarm in lane if counts(alarm)) for lane in self._lanes]
        self._lanes = [lane for lane in lanes if lane]
        self._heap = [alarm for alarm in self._heap if counts(alarm)]
        heapify(self._heap)
        self.count = len(self._heap) + sum(map(len, self._lanes))
        self._find_first()

    def clear(self) -> None:
        """Remove all alarms."""
        self.keep(lambda _alarm: False)

    def _find_first(self) -> None:
        first = self._heap[0] if self._heap else None
        for lane in self._lanes:
            if first is None or lane[0] < first:
                first = lane[0]
        self.first = first
