"""Decides how many items of a `map` the next chunk has, by how long the items of earlier chunks took."""

from __future__ import annotations

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

TARGET: Final = 0.002
"""Seconds that a chunk should run. The cost of a call, some tens of microseconds, is then a few percent."""
MAX_ITEMS: Final = 4096
"""Maximum number of items of a chunk: the results of a chunk arrive together."""
GROWTH: Final = 2
"""The next chunk has at most this many times the items of the largest chunk that has ended."""
SHARES: Final = 4
"""Number of chunks for each slot that the rest of the items must make, so that the slots end at about the same time."""
LEAST: Final = 1e-9
"""Minimum seconds of an item that the estimate divides by."""


class ChunkSize:
    """The size of a map's next chunk: 1 at first, then as many items as run in `TARGET` seconds.

    Longer items count at once. Shorter items count by halves, so that one short item among long ones changes little.

    Args:
        slots: the number of chunks that run at once.
    """

    def __init__(self, slots: int) -> None:
        self._slots = max(1, slots)
        self._seconds = TARGET
        """The estimated seconds of an item."""
        self._largest = 0
        """Number of items of the largest chunk that ended as one. A chunk that took too long starts it again."""

    def next(self, left: int | None = None) -> int:
        """Return the number of items of the next chunk.

        Args:
            left: number of items that were not submitted yet; None if it is unknown.
        """
        size = min(int(TARGET / self._seconds), GROWTH * self._largest, MAX_ITEMS)
        if left is not None:
            size = min(size, left // (SHARES * self._slots))
        return max(1, size)

    def ended(self, items: int, seconds: float) -> None:
        """Record that a chunk has run `items` of its items in `seconds` seconds."""
        if items < 1:
            return
        each = max(seconds / items, LEAST)
        self._seconds = max(each, self._seconds / 2)
        if seconds > GROWTH * TARGET and items > 1:
            self._largest = max(1, int(TARGET / each))
        else:
            self._largest = max(self._largest, items)
