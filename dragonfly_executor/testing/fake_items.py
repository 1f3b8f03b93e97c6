"""The items of a stream in a fake runner: each leaves at once, and waits for the window as on a slot."""

from __future__ import annotations

import pickle
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

from dragonfly_executor.protocol.frames import CHUNK_SIZE, Flag, Frame, Kind, encode

if TYPE_CHECKING:
    from dragonfly_executor.serialization import SlotCodec


class FakeItems:
    """The sink of one stream.

    Args:
        codec: encodes the items.
        ref: id and attempt of the call.
        window: maximum number of items that the caller has not taken.
        send: sends a frame to the parent.
    """

    def __init__(self, codec: SlotCodec, ref: tuple[int, int], window: int, send: Callable[[bytes], object]) -> None:
        self._codec = codec
        self._ref = ref
        self._left = window
        self._send = send
        self._is_closed = False
        self._changed = threading.Condition()

    def send(self, items: Iterator[Any]) -> None:
        """See `ItemSink`."""
        for value in items:
            if not self._add(value):
                return

    async def send_async(self, items: AsyncIterator[Any]) -> None:
        """See `ItemSink`. The loop of a fake slot runs this call alone, so it may block."""
        async for value in items:
            if not self._add(value):
                return

    def _add(self, value: Any) -> bool:
        """Send an item, and wait for room. Returns False if no more items are wanted."""
        data = pickle.dumps(([], [b"".join(self._codec.encode_result(value))]), 5)
        call_id, attempt = self._ref
        for start in range(0, len(data), CHUNK_SIZE):
            more = Flag.MORE if start + CHUNK_SIZE < len(data) else 0
            piece = data[start : start + CHUNK_SIZE]
            self._send(encode(Kind.ITEMS, call_id, piece, flags=more, attempt=attempt, detail=1))
        with self._changed:
            self._left -= 1
            self._changed.wait_for(lambda: self._left > 0 or self._is_closed)
            return not self._is_closed

    def told(self, frame: Frame) -> None:
        """Handle a message of the parent."""
        with self._changed:
            if frame.flags & Flag.END:
                self._is_closed = True
            elif not frame.flags & Flag.MORE:
                self._left += frame.detail
            self._changed.notify_all()

    def close(self) -> None:
        """Take no more items: the call was killed."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
