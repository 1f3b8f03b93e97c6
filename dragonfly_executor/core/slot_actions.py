"""The actions of a runner's scheduler. The driver carries them out in their order.

Some need an answer. The driver gives it as an event, before it carries out the next action.
"""

from __future__ import annotations

from dragonfly_executor.core.record import Record
from dragonfly_executor.core.slot_records import SlotCall, SlotRecord
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final, TypeAlias


Hand: TypeAlias = tuple[SlotRecord, list[SlotCall]]
"""An order to put these calls into the slot's queue. If the slot refuses one, the answer is `hand_refused`.

It is a plain tuple, because a lone call costs one.
"""
HAND: Final = tuple
"""The type of `Hand` at run time."""


class SlotOrder(Record):
    """An order that names only a slot."""

    __slots__ = __match_args__ = ("slot",)

    def __init__(self, slot: SlotRecord) -> None:
        self.slot = slot


class CallOrder(Record):
    """An order that names a slot and one of its calls."""

    __slots__ = __match_args__ = ("slot", "call")

    def __init__(self, slot: SlotRecord, call: SlotCall) -> None:
        self.slot = slot
        self.call = call


class TakeBack(SlotOrder):
    """An order to take back the calls that the slot has not begun. The answer is `taken_back`."""

    __slots__ = ()


class ReadAnswers(CallOrder):
    """An order to handle the answers that have arrived from the slot. The answer is `answers_read`, after those."""

    __slots__ = ()


class LookAtProgress(CallOrder):
    """An order to look up whether the call's function has started. The answer is `progress_seen`."""

    __slots__ = ()


class LookAtSlot(CallOrder):
    """An order to handle the answers that have arrived from the slot, and to look up whether the slot lacks processor
    time for this call. The answer is `slot_seen`, after those.
    """

    __slots__ = ()


class Fork(Record):
    """An order to fork slots. The answers are `slot_forked` for each, or `fork_failed` in place of the last ones.

    Args:
        numbers: their numbers.
        gpus: the numbers of the GPUs of each; None for its usual share.
    """

    __slots__ = __match_args__ = ("numbers", "gpus")

    def __init__(self, numbers: Sequence[int], gpus: frozenset[int] | None = None) -> None:
        self.numbers = numbers
        self.gpus = gpus


class EndRunner(Record):
    """An order to end the runner: it has no slot, and none could be forked."""

    __slots__ = ()


class Retire(SlotOrder):
    """An order to close the slot's queue: the slot ends after the calls that it has."""

    __slots__ = ()


class ExpectEnd(SlotOrder):
    """An order to kill the slot unless it ends soon: it is retired and has no call left. It may come repeatedly."""

    __slots__ = ()


class KillSlot(SlotOrder):
    """An order to kill the slot."""

    __slots__ = ()


class ReportStarted(CallOrder):
    """An order to tell the parent that the call has started."""

    __slots__ = ()


class ShowCall(CallOrder):
    """An order to show that the slot runs the call."""

    __slots__ = ()


class HideCall(SlotOrder):
    """An order to show that the slot runs no call: the call in its title has ended, or was taken back."""

    __slots__ = ()


class ReportLost(CallOrder):
    """An order to tell the parent that the slot died under this call."""

    __slots__ = ()


class ReturnCall(Record):
    """An order to return an unstarted call to the parent."""

    __slots__ = __match_args__ = ("call",)

    def __init__(self, call: SlotCall) -> None:
        self.call = call


class ReportGone(Record):
    """An order to tell the parent that a cancelled call is not here any more.

    Args:
        call_id: its id.
        attempt: its attempt.
        slot: the slot that was killed because of it; None if no slot had begun it.
    """

    __slots__ = __match_args__ = ("call_id", "attempt", "slot")

    def __init__(self, call_id: int, attempt: int, slot: SlotRecord | None) -> None:
        self.call_id = call_id
        self.attempt = attempt
        self.slot = slot


class ReportTimedOut(Record):
    """An order to tell the parent that a call was stopped because of its limits.

    Args:
        call: the call.
        unopened: milliseconds that decoding took, if the call was stopped because of that; 0 if not.
        slot: the slot that was killed because of it; None if no slot had begun it.
    """

    __slots__ = __match_args__ = ("call", "unopened", "slot")

    def __init__(self, call: SlotCall, unopened: int, slot: SlotRecord | None) -> None:
        self.call = call
        self.unopened = unopened
        self.slot = slot


class AnswerCheck(Record):
    """An order to answer the parent's question whether the runner may be stopped for being idle.

    Args:
        may_stop: the answer.
        killed: process id of the slot that was killed because the check took too long; None if none was.
    """

    __slots__ = __match_args__ = ("may_stop", "killed")

    def __init__(self, may_stop: bool, killed: int | None = None) -> None:
        self.may_stop = may_stop
        self.killed = killed


SlotAction: TypeAlias = (
    Hand
    | TakeBack
    | ReadAnswers
    | LookAtProgress
    | LookAtSlot
    | Fork
    | EndRunner
    | Retire
    | ExpectEnd
    | KillSlot
    | ReportStarted
    | ShowCall
    | HideCall
    | ReportLost
    | ReturnCall
    | ReportGone
    | ReportTimedOut
    | AnswerCheck
)
