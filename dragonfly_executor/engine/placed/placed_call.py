"""`PlacedCall`: the call that is a placed worker while it runs."""

from __future__ import annotations

from dragonfly_executor.core.calls import Call
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from dragonfly_executor.core.calls import CallLimits, Payload


class CallOwner(Protocol):
    """The worker that is told of the end of its call."""

    def call_has_ended(self, call: PlacedCall, outcome: object) -> None:
        """Handle the outcome, as `CallToken.settle` gets it."""

    def kill(self) -> None:
        """Stop the worker at once."""


class PlacedCall(Call):
    """The core's record of the call, and the receiver of its outcome, in one object.

    Args:
        call_id: its number.
        payload: the encoded call.
        worker: learns of its end.
        limits: what it requires of its runner, and no time limit.
        name: the name of its function.
    """

    __slots__ = ("_worker",)
    is_placed = True
    """True for a call that ends only if it is stopped."""

    def __init__(self, call_id: int, payload: Payload, worker: CallOwner, limits: CallLimits, name: str) -> None:
        super().__init__(call_id, payload, self, limits, limits.kind)
        self.name = name
        self._worker = worker

    def hand_over(self) -> bool:
        """Accept that the call is sent to a runner."""
        return True

    def settle(self, outcome: object) -> None:
        """Handle the end of the call, on the engine thread."""
        self._worker.call_has_ended(self, outcome)

    def cancel(self) -> None:
        """Stop the worker, because the block of its pool was interrupted."""
        self._worker.kill()
