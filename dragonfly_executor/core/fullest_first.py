"""The runners with a free slot, those with the most calls first."""

from __future__ import annotations

from collections import OrderedDict
from heapq import heappop, heappush

from dragonfly_executor.core.runner import Runner


class FullestFirst:
    """An order of runners by load, the largest first; among equals, the runner that was added last first.

    So calls return to the runner that became idle last, and the runner that has been idle longest stays idle. Every
    operation takes O(log n) for n different loads, and at most one entry is kept for each runner.
    """

    __slots__ = ("_load_of", "_loads", "_runners")

    def __init__(self) -> None:
        self._load_of: dict[int, int] = {}
        # Ordered dicts, because the last entry is needed: a plain dict walks over all deleted entries there.
        self._runners: dict[int, OrderedDict[int, Runner]] = {}
        # A heap of the negated keys of `_runners`.
        self._loads: list[int] = []

    def __len__(self) -> int:
        return len(self._load_of)

    def put(self, runner: Runner, load: int) -> None:
        """Add a runner with this load. It must not be in the order."""
        runners = self._runners.get(load)
        if runners is None:
            runners = self._runners[load] = OrderedDict()
            heappush(self._loads, -load)
        runners[runner.id] = runner
        self._load_of[runner.id] = load

    def discard(self, runner: Runner) -> None:
        """Remove a runner, if it is in the order. Its load may have changed."""
        load = self._load_of.pop(runner.id, None)
        if load is not None:
            del self._runners[load][runner.id]

    def first(self) -> Runner | None:
        """Return the first runner; None if there is none."""
        while self._loads:
            runners = self._runners[-self._loads[0]]
            if runners:
                return runners[next(reversed(runners))]
            del self._runners[-heappop(self._loads)]
        return None
