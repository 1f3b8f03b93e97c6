"""The time for which idle runners are kept, learned from how soon runners were needed again.

Keeping a runner costs its idle time. Stopping it too soon costs a boot, and a call that waits for it. The cheapest time
to wait for the next call follows from the distribution of the gaps between calls: it is long if most gaps are short,
and short if a runner that was not needed soon is not needed for long.
"""

from __future__ import annotations

from collections import deque

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

EDGES: Final[tuple[float, ...]] = tuple(2.0 ** (step / 2) / 16 for step in range(15))
"""Upper bounds of the classes of gaps, in boot times: from 1/16 to 8. Shorter gaps decide nothing."""
WAIT_WEIGHT: Final = 2.0
"""Seconds of a runner that a second of a waiting call is worth, when a runner is stopped too soon."""
ENOUGH: Final = 8
"""Number of gaps from which the idle time is learned."""
MEMORY: Final = 200
"""Number of gaps after which older ones count half."""
INNER: Final = 7
"""The level up to which runners are kept for longer while nothing is known."""


class GapHistogram:
    """The gaps in which runners of one level were idle, in classes.

    Args:
        initial: the idle time in boot times until enough gaps are known.
    """

    __slots__ = ("_best", "_counts", "_initial", "_total")

    def __init__(self, initial: float) -> None:
        self._initial = initial
        # The last class has the gaps that are longer than the last edge.
        self._counts = [0.0] * (len(EDGES) + 1)
        self._total = 0.0
        self._best: float | None = None

    def add(self, gap: float) -> None:
        """Count a gap, in boot times."""
        if gap < EDGES[0]:
            return
        self._counts[next((at for at, edge in enumerate(EDGES) if gap <= edge), len(EDGES))] += 1
        self._total += 1
        if self._total > MEMORY:
            self._counts = [count / 2 for count in self._counts]
            self._total /= 2
        self._best = None

    def best(self) -> float:
        """Return the idle time with the least expected cost, in boot times."""
        if self._total < ENOUGH:
            return self._initial
        if self._best is None:
            self._best = self._cheapest()
        return self._best

    def _cheapest(self) -> float:
        best, least = EDGES[0], float("inf")
        idle, longer = 0.0, self._total
        for edge, count in zip(EDGES, self._counts, strict=False):
            # A gap up to the edge costs itself. A longer one costs the idle time, then a boot, and a call waits for it.
            longer -= count
            idle += count * edge
            cost = idle + longer * (edge + 1 + WAIT_WEIGHT)
            if cost < least:
                best, least = edge, cost
        return best


class IdleTimes:
    """The idle times of a kind's runners, by level.

    The runner of level n is needed when n runners have calls. Outer runners are needed less often than
    inner ones, so they are stopped sooner. Levels share a histogram up to the next power of two.
    """

    __slots__ = ("_levels", "_stopped")

    def __init__(self) -> None:
        self._levels: dict[int, GapHistogram] = {}
        # Of runners that were stopped for being idle: since when they were idle, and their levels; the oldest first.
        self._stopped: deque[tuple[float, int]] = deque()

    def of(self, level: int) -> float:
        """Return how long a runner of this level is kept without a call, in boot times."""
        return self._histogram(level).best()

    def ended(self, gap: float, level: int) -> None:
        """Record that a runner got a call after `gap` boot times without one."""
        if gap >= EDGES[0]:
            self._histogram(level).add(gap)

    def stopped(self, since: float, level: int) -> None:
        """Record that a runner was stopped that was idle since `since` (monotonic seconds)."""
        self._stopped.append((since, level))

    def needed(self, now: float, boot: float) -> None:
        """Record that a runner boots. Here the gap of the last stopped runner ends.

        Args:
            now: monotonic seconds.
            boot: seconds that a boot takes.
        """
        stopped = self._stopped
        while stopped and now - stopped[0][0] > EDGES[-1] * boot:
            since, level = stopped.popleft()
            self.ended((now - since) / boot, level)
        if stopped:
            since, level = stopped.pop()
            self.ended((now - since) / boot, level)

    def _histogram(self, level: int) -> GapHistogram:
        size = level.bit_length()
        histogram = self._levels.get(size)
        if histogram is None:
            histogram = self._levels[size] = GapHistogram(2.0 if level <= INNER else 1.0)
        return histogram
