"""The calls of a map whose results are taken in the order in which they come."""

from __future__ import annotations

from collections import deque

from dragonfly_executor.engine.map_calls import MapCall, MapCalls
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, ClassVar

    from dragonfly_executor.engine.map_calls import Batch


class UnorderedCall(MapCall):
    """One call of such a map."""

    __slots__ = ()

    owner: UnorderedMapCalls

    def settle(self, outcome: object) -> None:
        """Keep the outcome, and wake the thread that waits for any. Runs on the engine thread."""
        self.outcome = outcome
        self.is_settled = True
        owner = self.owner
        owner.ready.append(self)
        owner.settled += 1
        if owner.awaited is not None or owner.settled == owner.refill_at:
            owner.wake()


class AnyCall:
    """The first call of a queue, whichever it will be."""

    def __init__(self, ready: deque[MapCall]) -> None:
        self._ready = ready

    @property
    def is_settled(self) -> bool:
        """Return whether there is a call."""
        return bool(self._ready)


class UnorderedMapCalls(MapCalls):
    """The calls of one map, and the one thread that takes their results as they come; see `MapCalls`.

    Attributes:
        ready: the settled calls whose outcomes were not taken, in the order in which they were settled.
    """

    CALL: ClassVar[type[MapCall]] = UnorderedCall

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ready: deque[MapCall] = deque()
        self._any = AnyCall(self.ready)
        self._untaken: set[MapCall] = set()
        self._last: MapCall | None = None

    def submit(self, batch: Batch) -> None:
        """See `MapCalls`."""
        calls = self._encoded(batch)
        self._untaken.update(calls)
        self._accept(calls)

    def _accept(self, calls: Sequence[MapCall]) -> None:
        self.ready.extend(call for call in calls if call.is_settled)
        super()._accept(calls)

    def fail(self, error: Exception) -> None:
        """Raise an error, which belongs to no item, after all results."""
        self._last = self._failed(error, 0, 0)

    @property
    def untaken(self) -> int:
        """See `MapCalls`."""
        return len(self._untaken) + (self._last is not None)

    def next_settled(self, deadline: float | None, refill_below: int = 0) -> MapCall | None:
        """See `MapCalls`."""
        if not self.ready:
            if not self._untaken:
                return self._last
            self.wait(self._any, deadline, refill_below)
        return self.ready[0] if self.ready else None

    def remove_next(self) -> None:
        """See `MapCalls`."""
        if self.ready:
            self._untaken.discard(self.ready.popleft())
        else:
            self._last = None

    def replace_next(self, batch: Batch) -> None:
        """See `MapCalls`."""
        calls = self._encoded(batch)
        self._untaken.update(calls)
        self.remove_next()
        self._accept(calls)

    def close(self) -> None:
        """See `MapCalls`."""
        try:
            self._cancel_unsettled(self._untaken)
        finally:
            self._untaken.clear()
            self.ready.clear()
            self._last = None
