"""`MapCall`: one call of a `map`."""

from __future__ import annotations

from concurrent.futures import CancelledError

from dragonfly_executor.core.actions import CANCELLED
from dragonfly_executor.core.calls import Call, CallLimits
from dragonfly_executor.engine.outcome import Outcome
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from dragonfly_executor.core.calls import Payload
    from dragonfly_executor.protocol.call_progress import CallProgress


class CallsOfMap(Protocol):
    """The map, as its calls use it.

    Attributes:
        awaited, settled, refill_at: see `map_calls.MapCalls`.
    """

    settled: int
    refill_at: int

    @property
    def awaited(self) -> object:
        """Return what the thread waits for."""
        ...

    def wake(self) -> None:
        """Wake the thread that waits."""

    def progressed(self, progress: CallProgress) -> None:
        """Have the callback called with a report of a call."""

    def cancel(self, calls: Sequence[MapCall]) -> None:
        """Cancel calls."""


class MapCall(Call):
    """One call of a map: the core's record of it and the receiver of its outcome in one object.

    Attributes:
        outcome: its outcome, once it is settled: as `CallToken.settle` gets it.
        is_settled: whether it has its outcome.
        owner: the map.
        first, size: the number of its first item in the map, and how many items it has. 0 items: it has the error of an
            iterable.
        arguments: its arguments, if the map may have to send some of them again.
    """

    __slots__ = ("arguments", "first", "is_settled", "outcome", "owner", "size")
    is_item = True

    def __init__(
        self,
        id: int,  # noqa: A002
        payload: Payload,
        limits: CallLimits,
        owner: CallsOfMap,
        first: int,
        size: int,
    ) -> None:
        super().__init__(id, payload, self, limits, limits.kind)
        self.owner = owner
        self.first = first
        self.size = size
        self.arguments: tuple[Any, ...] = ()
        self.outcome: object = None
        self.is_settled = False

    def hand_over(self) -> bool:
        """Accept that the call is sent to a runner."""
        return True

    def settle(self, outcome: object) -> None:
        """Keep the outcome, and wake the thread that waits for it. Runs on the engine thread."""
        self.outcome = outcome
        self.is_settled = True
        owner = self.owner
        owner.settled += 1
        if owner.awaited is self or owner.settled == owner.refill_at:
            owner.wake()

    def progressed(self, progress: CallProgress) -> None:
        """Have the callback called with a report of the call. Runs on the engine thread."""
        self.owner.progressed(progress._replace(item=self.first))

    def cancel(self) -> None:
        """Cancel the call, and stop it if it runs."""
        self.owner.cancel((self,))

    def take(self) -> Any:
        """Return the value of a settled call, and forget it, or raise its exception."""
        outcome = self.outcome
        # Without `take_outcome`, because this is the hot path.
        value, error = outcome.open() if type(outcome) is Outcome else self.take_outcome()
        self.outcome = None
        if error is None:
            return value
        try:
            raise error from error.__cause__
        finally:
            del error, outcome  # as in `Future.result`

    def take_outcome(self) -> tuple[Any, BaseException | None]:
        """Return the value and None, or None and the exception, of a settled call, and forget it."""
        try:
            return self.open_outcome()
        finally:
            self.outcome = None

    def open_outcome(self) -> tuple[Any, BaseException | None]:
        """Return the same, and keep the outcome."""
        outcome = self.outcome
        if type(outcome) is Outcome:
            return outcome.open()
        return None, CancelledError() if outcome is CANCELLED else outcome  # type: ignore[return-value]  # an exception
