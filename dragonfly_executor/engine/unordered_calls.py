"""The calls of a map whose results are taken in the order in which the calls end."""

from __future__ import annotations

from collections import deque

from dragonfly_executor.engine.map_call import MapCall
from dragonfly_executor.engine.map_calls import MapCalls
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, ClassVar

    from dragonfly_executor.engine.map_calls import Batch


class UnorderedCall(MapCall):
    """One call of such a map."""

    __slots__ = ()

    owner: UnorderedMapCalls

    def settle(self, outcome: object) -> None:
        """Keep the outcome, and wake who waits for any call. Runs on the engine thread."""
        self.outcome = outcome
        self.is_settled = True
        owner = self.owner
        owner.ended.append(self)
        owner.settled += 1
        if owner.awaited is not None or owner.settled == owner.refill_at:
            owner.wake()


class OpenCalls(dict[MapCall, None]):
    """Calls in order, from which any can be taken. It has the methods of a deque that `MapCalls` uses."""

    def append(self, call: MapCall) -> None:
        """Add a call."""
        self[call] = None

    def extend(self, calls: Iterable[MapCall]) -> None:
        """Add calls."""
        self.update(dict.fromkeys(calls))


class AnyCall:
    """The first call that ends, whichever it will be."""

    def __init__(self, ended: deque[MapCall]) -> None:
        self._ended = ended

    @property
    def is_settled(self) -> bool:
        """Return whether a call has ended."""
        return bool(self._ended)


class UnorderedMapCalls(MapCalls):
    """The calls of one map, and the one thread that takes their results as they end; see `MapCalls`.

    Attributes:
        ended: the calls that have ended and were not taken, in that order. The engine thread appends to it.
    """

    call_type: ClassVar[type[MapCall]] = UnorderedCall

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.pending: OpenCalls = OpenCalls()  # type: ignore[assignment]
        self.ended: deque[MapCall] = deque()
        self.any_call = AnyCall(self.ended)

    def _accept(self, calls: Sequence[MapCall]) -> None:
        # Those that could not be encoded have ended.
        self.ended.extend(call for call in calls if call.is_settled)
        super()._accept(calls)

    def next_settled(self, deadline: float | None, refill_below: int = 0) -> MapCall | None:
        """See `MapCalls`."""
        call = self._first_ended()
        if call is None:
            self.wait(self.any_call, deadline, refill_below)
            call = self._first_ended()
        return call

    def ended_call(self) -> MapCall | None:
        """Return a call that has ended, and forget the call. None if no call has ended.

        An error of the items' iterator is returned last.
        """
        call = self._first_ended()
        if call is not None:
            self.remove_next()
        return call

    def _first_ended(self) -> MapCall | None:
        if self.ended:
            return self.ended[0]
        if len(self.pending) == 1 and (last := next(iter(self.pending))).is_settled and not last.size:
            return last
        return None

    def remove_next(self) -> None:
        """See `MapCalls`."""
        if self.ended:
            self.pending.pop(self.ended.popleft(), None)
        else:
            self.pending.clear()  # the error of the items' iterator

    def replace_next(self, batch: Batch) -> None:
        """See `MapCalls`."""
        self.remove_next()
        self.submit(batch)
