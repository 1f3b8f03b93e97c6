"""The user's idle check, which runs in a slot: one at a time, with a time limit."""

from __future__ import annotations

from collections.abc import Callable

from dragonfly_executor.protocol.frames import Kind, encode
from dragonfly_executor.runner.slot_handle import Slot
from dragonfly_executor.transport.loop import Loop, Timer

LIMIT = 10.0
"""Seconds that a check may run. After that its slot is killed, and the runner stays."""


class IdleCheck:
    """The idle check in progress, if there is one.

    Args:
        loop: the agent's event loop.
        send: sends a frame to the parent.
    """

    def __init__(self, loop: Loop, send: Callable[[bytes], None]) -> None:
        self._loop = loop
        self._send = send
        self._under_way = False
        self._is_stale = False
        self._warning = ""
        self._timer: Timer | None = None

    def ask(self) -> bool:
        """Return True if a check must be started. A check that is running already answers this request too."""
        if self._under_way:
            # Calls came and went since the check started, so its "may go" is outdated.
            self._is_stale = True
            return False
        self._under_way = True
        return True

    def begin(self, slot: Slot) -> None:
        """Start the clock of a check that this slot can run now."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(LIMIT, lambda: self._is_late(slot))

    def answered(self, may_go: bool) -> None:
        """Send the answer to the parent. False keeps the runner, also for a check that could not be completed."""
        self._send(encode(Kind.IDLE, payload=self._warning.encode(), detail=int(may_go and not self._is_stale)))
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._warning = ""
        self._under_way = self._is_stale = False

    def _is_late(self, slot: Slot) -> None:
        slot.link.drain_reads()
        if not slot.is_checking:
            return
        self._warning = (
            f"the idle check did not end within {LIMIT:g} s: its slot (process {slot.pid}) was killed,"
            " and the runner is kept"
        )
        slot.kill_reason = Kind.CHECK_IDLE
        slot.kill()
