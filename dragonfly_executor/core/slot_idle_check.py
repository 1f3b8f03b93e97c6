"""The user's idle check, which runs in a slot: one at a time, with a time limit."""

from __future__ import annotations

from dragonfly_executor.core.slot_records import NEVER, SlotCall
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

LIMIT: Final = 10.0
"""Seconds that a check may run. After that its slot is killed, and the runner stays."""


class IdleCheck:
    """The idle check in progress, if there is one.

    Attributes:
        call: the check that is on its way or runs; None if there is none.
        is_outdated: True if calls came and went since the check was requested.
        ends: the time at which the check that runs has taken too long.
        killed: process id of the slot that was killed because of that, or None.
    """

    __slots__ = ("call", "ends", "is_outdated", "killed")

    def __init__(self) -> None:
        self.call: SlotCall | None = None
        self.is_outdated = False
        self.ends = NEVER
        self.killed: int | None = None

    def request(self, call: SlotCall) -> bool:
        """Return True if this check must be started. A check that is in progress answers this request too."""
        if self.call is not None:
            # Calls came and went since that check was requested, so its "may stop" is outdated.
            self.is_outdated = True
            return False
        self.call = call
        return True

    def finish(self, may_stop: bool) -> tuple[bool, int | None]:
        """End the check in progress.

        Args:
            may_stop: what it returned; False if it could not be completed.

        Returns:
            The answer to the parent, and the process id of the slot that was killed, or None.
        """
        answer = may_stop and not self.is_outdated, self.killed
        self.call = None
        self.is_outdated = False
        self.ends = NEVER
        self.killed = None
        return answer
