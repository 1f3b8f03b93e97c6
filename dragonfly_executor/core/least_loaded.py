"""Which runners have the fewest calls: asked for when a pool is made smaller."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush

from dragonfly_executor.core.runner import UP, Runner


class Lightest:
    """Finds the runner with the fewest calls; of runners with as many, the newest.

    The order is made when it is asked for, and kept while it is asked for often: as soon as it has seen as many changes
    as there are runners, it is dropped. So a pool that stays as it is pays nothing for it, and its making costs no more
    than the changes since it was made last.
    """

    def __init__(self) -> None:
        self.is_kept = False
        """Whether there is an order now."""
        self._changes_left = 0
        # A heap of (calls in flight, -id). An entry whose number no longer is the runner's is passed over.
        self._order: list[tuple[int, int]] = []

    def take(self, count: int, runners: dict[int, Runner]) -> Iterable[Runner]:
        """The next `count` of `runners` that are up and do not retire, one after the other: each is to retire then."""
        if not self.is_kept:
            self.is_kept, up = True, UP
            self._order = [
                (len(each.in_flight), -each.id) for each in runners.values() if each.state is up and not each.retiring
            ]
            heapify(self._order)
        self._changes_left = len(runners)
        while count and self._order:
            load, number = heappop(self._order)
            runner = runners.get(-number)
            if runner is None or runner.state is not UP or runner.retiring:
                continue
            if len(runner.in_flight) == load:
                yield runner
                count -= 1

    def changed(self, runner: Runner) -> None:
        """A runner has other calls than before, or is there, or stays after all. To be told while `is_kept`."""
        self._changes_left -= 1
        if self._changes_left < 0:
            self.is_kept = False
            self._order = []
        else:
            heappush(self._order, (len(runner.in_flight), -runner.id))
