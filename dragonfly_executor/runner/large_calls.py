"""Forwards the parent's messages to calls, and the chunks of large calls, of which it requests more as they pass."""

from __future__ import annotations

from dragonfly_executor.protocol.compression import chunk_size
from dragonfly_executor.protocol.frames import TOTAL, Flag, Frame, Kind, encode
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.core.slot_records import SlotCall
    from dragonfly_executor.runner.dispatch import Dispatcher
    from dragonfly_executor.transport.link import Link

SLOT_BACKLOG = 4 * 1024 * 1024
"""Bytes that may be queued for a slot before the agent requests no more of them from the parent.

Also the bytes that may be queued for the parent before the agent stops reading from a slot.
"""
REQUEST = 8
"""Chunks of a call that the agent requests at once. Each request wakes the parent."""


class LargeCalls:
    """The transfers of large calls to slots.

    Args:
        link: the link to the parent.
        dispatcher: knows which slot has a call.
    """

    def __init__(self, link: Link, dispatcher: Dispatcher) -> None:
        self._link = link
        self._dispatcher = dispatcher

    def requested(self, frame: Frame) -> None:
        """Handle a slot's PULL."""
        call = self._dispatcher.call(frame.call_id, frame.attempt)
        if call is not None and frame.flags & Flag.PIECES:
            # The whole payload comes now, and not the part of which the CALL has told.
            call.missing = TOTAL.unpack(frame.payload)[0]
            call.chunks_owed = 0

    def forward(self, frame: Frame) -> None:
        """Forward a chunk to the slot that has its call."""
        call = self._dispatcher.call(frame.call_id, frame.attempt)
        if call is None or call.slot is None:
            return
        self._dispatcher.payload_arrived(call, chunk_size(frame))
        self._dispatcher.slots[call.slot.pid].link.send_bulk(frame.raw)
        call.chunks_owed += 1
        self._request_more(call)

    def forward_message(self, frame: Frame) -> None:
        """Forward a message to the slot that has its call."""
        call = self._dispatcher.call(frame.call_id, frame.attempt)
        if call is not None and call.slot is not None:
            self._dispatcher.slots[call.slot.pid].link.send(frame.raw)

    def _request_more(self, call: SlotCall) -> None:
        """Request as many chunks as were forwarded, unless they are few, or too many wait for the slot."""
        # The slot has requested many more at first, so others are on their way while few are owed.
        if call.slot is None or call.missing <= 0 or call.chunks_owed < REQUEST:
            return
        link = self._dispatcher.slots[call.slot.pid].link
        if link.queued_bulk > SLOT_BACKLOG:
            link.on_drained = lambda: self._request_more(call)
            return
        self._link.send(encode(Kind.PULL, call.call_id, attempt=call.attempt, detail=call.chunks_owed))
        call.chunks_owed = 0
