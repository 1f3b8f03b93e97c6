"""What a runner may have its parent keep for it. Beyond that it breaks the protocol, and is lost alone.

A runner runs the user's code, often on another machine, so the parent believes no number that a runner claims: a large
result stays within the length that its head announced, output within its window, slots within a count.
"""

from __future__ import annotations

from dragonfly_executor.core.output import WINDOW
from dragonfly_executor.core.wire import MAX_INLINE, TOTAL, Flag, Frame
from dragonfly_executor.errors import ProtocolError

MAX_SLOTS = 2**16
"""Slots that a runner may have; so many processors no machine has."""
SPARE_SLOTS = 1000
"""Slots beyond those that a runner is to have, and for each of these as many more as there are: the end of a slot that
wrote much is told behind its output, and that may wait for long."""
ERROR_ROOM = 1024 * 1024
"""Bytes that an error may take where ``max_payload`` is smaller: it says why there is no result."""
OUTPUT_SLACK = 2 * 1024 * 1024
"""Output of a slot beyond its window: what its agent had read from it in one go, when the window was full."""
ALL_OUTPUT = 64 * 1024 * 1024
"""Output of slots that have ended, beyond what those that live may have on its way."""
MAX_WARNING = 4 * 1024
"""Characters of a warning of a runner's that are logged."""


def room_for(max_payload: int, flags: int) -> int:
    """How many bytes a result, or an error, may take."""
    return max(max_payload, ERROR_ROOM) if flags & Flag.ERROR else max_payload


def inline_room(max_payload: int) -> int:
    """How many bytes a result that comes in one frame may take."""
    return min(max_payload, MAX_INLINE)


def check_inline(frame: Frame, room: int) -> None:
    """See what it is that came in one frame and is larger than `room`.

    Raises:
        ProtocolError: it is too large.
    """
    size = len(frame.payload)
    if size > MAX_INLINE or not frame.flags & Flag.ERROR:
        raise ProtocolError(f"a result of {size} bytes in one frame, where {room} are allowed")


def announced(head: Frame, max_payload: int) -> int:
    """The length that the head of a large result announces.

    Raises:
        ProtocolError: it is no head, or the result is too large.
    """
    payload = head.payload
    if len(payload) != TOTAL.size:
        raise ProtocolError(f"the head of a large result is of {len(payload)} bytes, where {TOTAL.size} say its length")
    total: int = TOTAL.unpack(payload)[0]
    if total > (room := room_for(max_payload, head.flags)):
        raise ProtocolError(f"a result of {total} bytes was announced, where {room} are allowed")
    return total


class Download:
    """A large result that comes piece by piece. It takes no more memory than has arrived.

    If there is no memory for it, it is dropped: the rest is counted as it comes, and not kept.

    Args:
        head: announces it.
        max_payload: bytes that a result may take.

    Raises:
        ProtocolError: the head makes no sense, or announces too much.
    """

    def __init__(self, head: Frame, max_payload: int) -> None:
        self.head = head
        self.total = announced(head, max_payload)
        self.data: bytearray | None = bytearray()
        """What has come; None once it was dropped."""
        self.taken = 0
        """Bytes of memory that this was seen to take."""
        self._received = 0

    def drop(self) -> None:
        """Let go of what has come, and of what will."""
        self.data = None

    def add(self, chunk: Frame) -> bool:
        """Take in a piece; whether it was the last one.

        Raises:
            ProtocolError: there is more, or less, than was announced.
        """
        payload = chunk.payload
        if self.data is not None:
            try:
                # Grown as it comes, not joined at the end: that would need the room twice.
                self.data += payload
            except MemoryError:
                self.drop()
        self._received += len(payload)
        size, is_last = self._received, not chunk.flags & Flag.MORE
        if size > self.total or (is_last and size < self.total):
            raise ProtocolError(f"a result of {self.total} bytes was announced, and {size} came")
        return is_last


class OutputAccount:
    """A runner's slots, and what they have sent that nobody has consumed yet: the agent's own count, seen from here."""

    def __init__(self) -> None:
        self.slots = 1
        """Calls that the runner runs at once."""
        self._by_slot: dict[int, int] = {}
        self._total = 0

    def slot_is_up(self, slot: int) -> None:
        """The agent has a slot more.

        Raises:
            ProtocolError: it has far more than it was told to have.
        """
        at_most = 2 * self.slots + SPARE_SLOTS
        if len(self._by_slot) >= at_most:
            raise ProtocolError(f"more than {at_most} slots, where it was told to have {self.slots}")
        self._by_slot.setdefault(slot, 0)

    def slot_is_down(self, slot: int) -> bool:
        """A slot has ended; whether it was known. What it has sent still counts for the runner until it is consumed."""
        return self._by_slot.pop(slot, None) is not None

    def arrived(self, slot: int, amount: int) -> None:
        """So much has come from a slot, as `core.output.weight` counts.

        Raises:
            ProtocolError: there is no such slot, or it has sent more than its window allows.
        """
        waiting = self._by_slot.get(slot)
        if waiting is None:
            raise ProtocolError(f"output of a slot that is not there: {slot}")
        self._by_slot[slot] = waiting = waiting + amount
        self._total += amount
        if waiting > WINDOW + OUTPUT_SLACK:
            raise ProtocolError(f"output beyond the window of slot {slot}: {waiting} where {WINDOW} are allowed")
        if self._total > ALL_OUTPUT + 2 * WINDOW * self.slots:
            raise ProtocolError(f"output far beyond the windows of all slots: {self._total} wait to be consumed")

    def forgotten(self, amount: int) -> None:
        """So much of slots that have ended is done with."""
        self._total -= amount

    def consumed(self, slot: int, amount: int) -> bool:
        """So much of it is done with; whether the agent is to hear of that, since the slot is there."""
        self._total -= amount
        waiting = self._by_slot.get(slot)
        if waiting is None:
            return False
        self._by_slot[slot] = waiting - amount
        return True
