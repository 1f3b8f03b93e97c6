"""Bounds on the memory that a runner can make its parent hold. A runner beyond a bound violates the protocol.

A runner runs the user's code, often on another machine. So the parent trusts no number that a runner claims: a large
result stays within its announced length, output within its window, slots within a count. Only that runner is lost.
"""

from __future__ import annotations

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.compression import COMPRESSED, chunk_size
from dragonfly_executor.protocol.frames import MAX_INLINE, TOTAL, Flag, Frame
from dragonfly_executor.protocol.output_window import WINDOW
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    Buffer = bytes | bytearray | memoryview

MAX_SLOTS = 2**16
"""Maximum number of slots of a runner: no machine has as many processors."""
SPARE_SLOTS = 1000
"""Number of slots that a runner may have beyond twice the number that the parent set.

An agent reports the end of a slot behind the slot's output. So some ended slots may be unreported while the parent
consumes slowly.
"""
ERROR_ROOM = 1024 * 1024
"""Bytes that an error may take even if ``max_payload`` is smaller: the error says why there is no result."""
OUTPUT_SLACK = 2 * 1024 * 1024
"""Bytes of a slot's output that may come beyond its window. Its agent had read them before the window was full."""
ALL_OUTPUT = 64 * 1024 * 1024
"""Output of ended slots in bytes that may wait to be consumed, beyond the windows of the live slots."""
STREAM_BYTES = 1024 * 1024
"""Bytes of a stream's items that were sent and not taken, from which on its function waits."""
BATCH_ROOM = 1024 * 1024
"""Bytes that a batch of a stream's items may take beyond its largest item."""
MAX_WARNING = 4 * 1024
"""Characters of a runner's warning that are logged."""


def max_result_bytes(max_payload: int, flags: int) -> int:
    """Return how many bytes a result with these flags may take."""
    return max(max_payload, ERROR_ROOM) if flags & Flag.ERROR else max_payload


def max_inline_bytes(max_payload: int) -> int:
    """Return how many bytes a result in one frame may take."""
    return min(max_payload, MAX_INLINE)


def check_inline(frame: Frame, room: int) -> None:
    """Check a result in one frame that is larger than `room`: only an error may be, up to `MAX_INLINE`.

    Raises:
        ProtocolError: the result is too large.
    """
    size = len(frame.payload)
    if size > MAX_INLINE or not frame.flags & Flag.ERROR:
        raise ProtocolError(f"a result of {size} bytes in one frame, more than {room}")


def announced_length(head: Frame, max_payload: int) -> int:
    """Return the length in bytes that the head of a large result announces.

    Raises:
        ProtocolError: the head has no length, or the length is over the bound.
    """
    payload = head.payload
    if len(payload) != TOTAL.size:
        raise ProtocolError(f"the head of a large result has {len(payload)} bytes, not {TOTAL.size}")
    total: int = TOTAL.unpack(payload)[0]
    if total > (room := max_result_bytes(max_payload, head.flags)):
        raise ProtocolError(f"a result of {total} bytes was announced, more than {room}")
    return total


class Memory(Protocol):
    """Memory for a payload that arrives in pieces; see `transport.payload_buffer`."""

    @property
    def allocated(self) -> int:
        """Bytes of memory that are taken."""
        ...

    def __len__(self) -> int: ...

    def append(self, piece: Buffer) -> None:
        """Add a piece. Raises MemoryError if there is no room for it."""

    def view(self) -> memoryview:
        """Return the bytes that have arrived."""
        ...


class Download:
    """A large result that arrives in pieces. It takes no more memory than has arrived, after decompression.

    If memory runs out, the result is dropped: the rest is counted as it arrives, and not kept.

    Args:
        head: the frame that announces the result.
        max_payload: maximum size of a result in bytes.
        make_memory: makes memory of a given number of bytes; it takes only as much as it needs.
        open_chunk: returns the bytes of a compressed chunk with these flags, bytes and size; see `transport.codecs`.

    Raises:
        ProtocolError: the head is invalid, or announces too much.
    """

    def __init__(
        self,
        head: Frame,
        max_payload: int,
        make_memory: Callable[[int], Memory],
        open_chunk: Callable[[int, memoryview, int], Buffer],
    ) -> None:
        self.head = head
        self._open_chunk = open_chunk
        self.total = announced_length(head, max_payload)
        self._memory: Memory | None = make_memory(self.total)
        self.taken = 0
        """Bytes of memory that the caller has counted for this result."""
        self._received = 0

    @property
    def data(self) -> memoryview | None:
        """The bytes that have arrived; None after `drop`. Nothing can be added while they are in use."""
        return None if self._memory is None else self._memory.view()

    @property
    def held(self) -> int:
        """The number of bytes that have arrived and are kept."""
        return 0 if self._memory is None else len(self._memory)

    @property
    def allocated(self) -> int:
        """Bytes of memory that the result takes."""
        return 0 if self._memory is None else self._memory.allocated

    def drop(self) -> None:
        """Discard the bytes that have arrived, and all later ones."""
        self._memory = None

    def add(self, chunk: Frame) -> bool:
        """Add a piece, and return whether it was the last.

        Raises:
            ProtocolError: more or fewer bytes came than were announced, or a compressed piece is invalid.
        """
        length = chunk_size(chunk)
        if self._memory is not None:
            try:
                # Append each piece as it arrives. Joining the pieces at the end needs the memory twice.
                self._memory.append(self._bytes_of(chunk))
            except MemoryError:
                self.drop()
        self._received += length
        size, is_last = self._received, not chunk.flags & Flag.MORE
        if size > self.total or (is_last and size < self.total):
            raise ProtocolError(f"a result of {self.total} bytes was announced, but {size} arrived")
        return is_last

    def _bytes_of(self, chunk: Frame) -> Buffer:
        if not chunk.flags & COMPRESSED:
            return chunk.payload
        return self._open_chunk(chunk.flags, chunk.payload, chunk.detail)


class OutputAccount:
    """Counts of a runner's slots, and of their output that the parent has not consumed yet.

    The agent keeps the same counts, and stops reading a slot whose window is full.
    """

    def __init__(self) -> None:
        self.slots = 1
        """Number of calls that the runner runs at once."""
        self._by_slot: dict[int, int] = {}
        self._total = 0

    def slot_is_up(self, slot: int) -> None:
        """Count a new slot.

        Raises:
            ProtocolError: the runner has far more slots than the parent set.
        """
        at_most = 2 * self.slots + SPARE_SLOTS
        if len(self._by_slot) >= at_most:
            raise ProtocolError(f"more than {at_most} slots, although the parent set {self.slots}")
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
            raise ProtocolError(f"output of an unknown slot: {slot}")
        self._by_slot[slot] = waiting = waiting + amount
        self._total += amount
        if waiting > WINDOW + OUTPUT_SLACK:
            raise ProtocolError(f"output beyond the window of slot {slot}: {waiting}, more than {WINDOW}")
        if self._total > ALL_OUTPUT + 2 * WINDOW * self.slots:
            raise ProtocolError(f"output far beyond the windows of all slots: {self._total} are not consumed yet")

    def forgotten(self, amount: int) -> None:
        """Subtract output of ended slots that was consumed."""
        self._total -= amount

    def consumed(self, slot: int, amount: int) -> bool:
        """Subtract consumed output of a slot.

        Returns:
            True if the slot is up, so that the caller must tell its agent.
        """
        self._total -= amount
        waiting = self._by_slot.get(slot)
        if waiting is None:
            return False
        self._by_slot[slot] = waiting - amount
        return True
