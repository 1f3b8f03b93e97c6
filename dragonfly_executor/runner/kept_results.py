"""The large results that an agent keeps after they went to the parent: other calls on this runner may need them."""

from __future__ import annotations

from dragonfly_executor.core.recently_used import RecentlyUsed
from dragonfly_executor.protocol.frames import KEPT_FROM, TOTAL, Flag, Frame
from dragonfly_executor.runner.machine import FALLBACK_MEMORY, RunnerMachine
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    Ref = tuple[int, int]

MEMORY_SHARE = 8
"""Divisor of the memory that the runner may use: the bytes of all kept results."""
MOST_KEPT = 64
"""Maximum number of kept results."""


class KeptResults:
    """The last large results of one runner, as the frames that went to the parent. Nothing is copied.

    Args:
        most: bytes of all of them; None for a share of the memory that the runner may use.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = (RunnerMachine().memory or FALLBACK_MEMORY) // MEMORY_SHARE if most is None else most
        self._sizes = RecentlyUsed(self._most, MOST_KEPT)
        self._numbers: dict[Ref, int] = {}
        """The number of each result in the order of its begin."""
        self._chunks: dict[int, list[Frame]] = {}
        self._complete: set[int] = set()
        self._last = 0

    @property
    def total(self) -> int:
        """Bytes of all kept results."""
        return self._sizes.total

    def begin(self, head: Frame) -> None:
        """Begin to keep a result whose head went to the parent, unless it is an error, or too small or too large."""
        size = TOTAL.unpack(head.payload)[0] if len(head.payload) == TOTAL.size else 0
        if head.flags & Flag.ERROR or not KEPT_FROM <= size <= self._most:
            return
        self._last = number = self._last + 1
        self._drop(self._numbers.pop((head.call_id, head.attempt), 0))
        self._numbers[head.call_id, head.attempt] = number
        self._chunks[number] = []
        self._sizes.add(number, size)
        for each in self._sizes.evict((number,)):
            self._drop(each)

    def add(self, chunk: Frame) -> bytes | memoryview:
        """Keep a chunk that goes to the parent, if it belongs to a result that is kept. Returns what is to be sent."""
        number = self._numbers.get((chunk.call_id, chunk.attempt))
        chunks = None if number is None else self._chunks.get(number)
        if number is None or chunks is None or number in self._complete:
            return chunk.raw
        chunks.append(chunk)
        if not chunk.flags & Flag.MORE:
            self._complete.add(number)
        # The link does not receive other chunks in memory that it must not write to.
        return memoryview(chunk.raw).toreadonly()

    def chunks_of(self, ref: Ref) -> list[Frame] | None:
        """Return the chunks of the result of a call and attempt; None if it is not kept, or not complete."""
        number = self._numbers.get(ref)
        if number is None or number not in self._complete:
            return None
        self._sizes.use(number)
        return self._chunks[number]

    def _drop(self, number: int) -> None:
        self._sizes.remove(number)
        self._chunks.pop(number, None)
        self._complete.discard(number)
        self._numbers = {ref: each for ref, each in self._numbers.items() if each != number}
