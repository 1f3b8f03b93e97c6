"""Bounds on what a runner can make its parent hold in memory. A runner beyond a bound breaks the protocol.

A runner runs the user's code, often on another machine. So the parent trusts no number that a runner claims: a large
result stays within its announced length, output within its window, slots within a count. Only that runner is lost.
"""

from __future__ import annotations

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.frames import MAX_INLINE, TOTAL, Flag, Frame
from dragonfly_executor.protocol.output_window import WINDOW

MAX_SLOTS = 2**16
"""Slots that a runner may have at most: no machine has as many processors."""
SPARE_SLOTS = 1000
"""Slots that a runner may have beyond twice the number it was told. An agent reports the end of a slot behind the
slot's output, so many ended slots may be unreported while the parent consumes slowly."""
ERROR_ROOM = 1024 * 1024
"""Bytes that an error may take if ``max_payload`` is smaller: the error says why there is no result."""
OUTPUT_SLACK = 2 * 1024 * 1024
"""Output of a slot that may come beyond its window: frames that its agent had read before the window was full."""
ALL_OUTPUT = 64 * 1024 * 1024
"""Output of ended slots that may wait to be consumed, beyond the windows of the live slots."""
MAX_WARNING = 4 * 1024
"""Characters of a runner's warning that are logged."""


def room_for(max_payload: int, flags: int) -> int:
    """Return how many bytes a result with these flags may take."""
    return max(max_payload, ERROR_ROOM) if flags & Flag.ERROR else max_payload


def inline_room(max_payload: int) -> int:
    """Return how many bytes a result in one frame may take."""
    return min(max_payload, MAX_INLINE)


def check_inline(frame: Frame, room: int) -> None:
    """Check a result in one frame that is larger than `room`: only an error may be, up to `MAX_INLINE`.

    Raises:
        ProtocolError: the result is too large.
    """
    size = len(frame.payload)
    if size > MAX_INLINE or not frame.flags & Flag.ERROR:
        raise ProtocolError(f"a result of {size} bytes in one frame, where {room} are allowed")


def announced(head: Frame, max_payload: int) -> int:
    """Return the length in bytes that the head of a large result announces.

    Raises:
        ProtocolError: the head holds no length, or the length is over the bound.
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
    """Counts a runner's slots and the output that they sent and the parent has not consumed yet.

    The agent keeps the same count, and stops reading a slot whose window is full.
    """

    def __init__(self) -> None:
        self.slots = 1
        """Calls that the runner runs at once."""
        self._by_slot: dict[int, int] = {}
        self._total = 0

    def slot_is_up(self, slot: int) -> None:
        """Count a new slot.

        Raises:
            ProtocolError: the runner has far more slots than it was told to have.
        """
        at_most = 2 * self.slots + SPARE_SLOTS
        if len(self._by_slot) >= at_most:
            raise ProtocolError(f"more than {at_most} slots, where it was told to have {self.slots}")
        self._by_slot.setdefault(slot, 0)

    def slot_is_down(self, slot: int) -> bool:
        """Drop an ended slot, and return whether it was known. Its unconsumed output still counts for the runner."""
        return self._by_slot.pop(slot, None) is not None

    def arrived(self, slot: int, amount: int) -> None:
        """Add output that arrived from a slot, in units of `protocol.output_window.weight`.

        Raises:
            ProtocolError: the slot is not up, or its unconsumed output exceeds its window.
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
        """Subtract output of ended slots that was consumed."""
        self._total -= amount

    def consumed(self, slot: int, amount: int) -> bool:
        """Subtract consumed output of a slot, and return whether the slot is up, so that its agent must be told."""
        self._total -= amount
        waiting = self._by_slot.get(slot)
        if waiting is None:
            return False
        self._by_slot[slot] = waiting - amount
        return True
