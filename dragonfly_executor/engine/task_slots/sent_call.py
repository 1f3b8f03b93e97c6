"""`SentCall`: a call in a slot that several calls share."""

from __future__ import annotations

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.core.calls import Call
    from dragonfly_executor.transport.loop import Timer


class SentCall:
    """A call that was sent to the slot, and is not answered.

    Attributes:
        call, attempt, payload: the call. A call that is settled forgets its payload, which the slot may still read.
        is_ending: whether its task was told to end.
        is_late: whether that is because of its `run_timeout`.
        is_cancelled: whether the slot's loop has cancelled the task.
        timer: the timer of its limit, or of its end.
    """

    __slots__ = ("attempt", "call", "is_cancelled", "is_ending", "is_late", "payload", "timer")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.attempt = call.attempt
        self.payload = call.payload
        self.is_ending = self.is_late = self.is_cancelled = False
        self.timer: Timer | None = None

    @property
    def ref(self) -> tuple[int, int]:
        """The call's id and attempt."""
        return self.call.id, self.attempt

    def stop_timer(self) -> None:
        """Cancel the timer."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
