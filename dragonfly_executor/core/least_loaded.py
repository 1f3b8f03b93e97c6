"""The runners with the fewest calls, needed when a pool is made smaller; the last backend's runners first."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush

from dragonfly_executor.core.runner import UP, Runner


class LeastLoaded:
    """An order of runners by tier, the last tier first; then by calls in flight; among equals, the newest runner first.

    The order is built on demand and kept while it is used often. It is dropped once it has seen as many changes as
    there are runners. So a pool whose size does not change pays nothing for it, and building it costs no more than the
    changes since the last build.
    """

    def __init__(self) -> None:
        self.is_kept = False
        """True if there is an order now."""
        self._changes_left = 0
        # A heap of (-tier, calls in flight, -id). An entry whose load is no longer the runner's is skipped.
        self._order: list[tuple[int, int, int]] = []

    def take(self, count: int, runners: dict[int, Runner]) -> Iterable[Runner]:
        """Yield the next `count` of `runners` that are up and not retiring. The caller retires each before the next."""
        if not self.is_kept:
            self.is_kept, up = True, UP
            self._order = [
                (-each.tier, len(each.in_flight), -each.id)
                for each in runners.values()
                if each.state is up and not each.retiring and not each.lent
            ]
            heapify(self._order)
        self._changes_left = len(runners)
        while count and self._order:
            _, load, number = heappop(self._order)
            runner = runners.get(-number)
            if runner is None or runner.state is not UP or runner.retiring or runner.lent:
                # If a call there waits for its child calls, these may need the runner.
                continue
            if len(runner.in_flight) == load:
                yield runner
                count -= 1

    def changed(self, runner: Runner) -> None:
        """Update a runner whose calls changed, or that came up, or no longer retires. Call it while `is_kept`."""
        self._changes_left -= 1
        if self._changes_left < 0:
            self.is_kept = False
            self._order = []
        else:
            heappush(self._order, (-runner.tier, len(runner.in_flight), -runner.id))
