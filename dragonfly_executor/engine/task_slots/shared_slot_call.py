"""`SharedSlotCall`: the call of the pool that serves other calls while it runs."""

from __future__ import annotations

from dragonfly_executor.core.calls import Call
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from dragonfly_executor.core.calls import CallLimits, Payload


class SlotOwner(Protocol):
    """An object that is told of the end of the call."""

    def call_has_ended(self, call: SharedSlotCall, outcome: object) -> None:
        """Handle the outcome, as `CallToken.settle` gets it."""


class SharedSlotCall(Call):
    """The pool's record of the call, and the receiver of its outcome, in one object.

    Args:
        call_id: its number.
        payload: the encoded call.
        owner: learns of its end.
        limits: what it requires of its runner, its priority, and no time limit.
    """

    __slots__ = ("_owner",)
    is_hidden = True

    def __init__(self, call_id: int, payload: Payload, owner: SlotOwner, limits: CallLimits) -> None:
        super().__init__(call_id, payload, self, limits, limits.kind)
        self.name = "async calls"
        self._owner = owner

    def hand_over(self) -> bool:
        """Accept that the call is sent to a runner."""
        return True

    def settle(self, outcome: object) -> None:
        """Handle the end of the call, on the engine thread."""
        self._owner.call_has_ended(self, outcome)
