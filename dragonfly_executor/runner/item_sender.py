"""The items of a stream at the slot's end: batches on their way to the parent, and the window that bounds them.

A slow function's items leave one by one, at once. If items come fast, they collect in a batch, and a second thread
sends what has waited for `DELAY` while the function computes the next item. Each item is pickled when it is yielded,
unless it cannot change: a function may yield one object again and again, and change it in between.

The window counts items that the caller has not taken, and their bytes. The function continues only while there is room.
"""

from __future__ import annotations

import os
from _thread import RLock
from collections import deque
from time import perf_counter
from types import NoneType

from dragonfly_executor.errors import FrameTooLargeError, ResultSerializationError
from dragonfly_executor.protocol.frames import CHUNK_SIZE, HEADER, Flag, Kind, encode
from dragonfly_executor.protocol.memory_bounds import STREAM_BYTES
from dragonfly_executor.runner.late_job import LateJob
from dragonfly_executor.util import plain_pickle as pickle
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from typing import Any

    from dragonfly_executor.runner.agent_stream import AgentStream
    from dragonfly_executor.serialization import SlotCodec

DELAY = 0.005
"""Seconds for which an item may wait for others."""
MOST_ITEMS = 1024
"""Maximum number of items in a batch."""
BATCH_SIZE = 32 * 1024
"""Bytes from which a batch is sent."""
SMALL = frozenset({NoneType, bool, float, int})
"""Types of small values that cannot change."""
NO_TYPES: frozenset[type] = frozenset()
SHORT = 256
"""Length up to which a text counts as small."""
PIECES_AHEAD = 4
"""Number of pieces of a large batch that the parent has not confirmed yet."""


class ItemSender:
    """The sender of one call's items. The call's thread adds items, and a second one may send them.

    Args:
        agent: the stream to the agent.
        codec: encodes the items.
        ref: id and attempt of the call.
        window: maximum number of items that the caller has not taken.
        max_payload: maximum size of an item in bytes.
    """

    def __init__(
        self, agent: AgentStream, codec: SlotCodec, ref: tuple[int, int], window: int, max_payload: int
    ) -> None:
        self._agent = agent
        self._codec = codec
        self._ref = ref
        self._window = window
        self._max_payload = max_payload
        self._most = min(MOST_ITEMS, max(1, window // 2))
        self._small = SMALL if codec.pickles_plainly else NO_TYPES
        self._plain: list[Any] = []
        """Small items that wait to be sent. They precede all of `_encoded`."""
        self._encoded: list[bytes] = []
        """Encoded items that wait to be sent."""
        self._size = 0
        self._due = 0.0
        """The time from which on the next item is sent at once."""
        self._number = 0
        """Number of items in batches that were sent."""
        self._lock = RLock()
        """Protects all below, and the order of batches."""
        self._ahead: deque[tuple[int, int]] = deque()
        """Batches that the caller has not taken: the number of items and of bytes."""
        self._items_ahead = self._bytes_ahead = self._unconfirmed = 0
        self._is_closed = False
        self._late = LateJob(self._send_late, DELAY)

    def send(self, items: Iterator[Any]) -> None:
        """See `ItemSink`."""
        plain, encoded, small, clock, add = self._plain, self._encoded, self._small, perf_counter, self._add
        append = plain.append
        left = 1
        try:
            for value in items:
                if type(value) in small and not encoded:
                    append(value)
                else:
                    add(value)
                left -= 1
                if not left or clock() >= self._due:
                    self._begin_turn()
                    self._wait_for_room()
                    left = self._items_until_turn()
                    if not left:
                        return
        finally:
            self._end()

    async def send_async(self, items: AsyncIterator[Any]) -> None:
        """See `ItemSink`."""
        from asyncio import get_running_loop  # it is loaded: this coroutine runs in a loop

        left = 1
        try:
            async for value in items:
                self._add(value)
                left -= 1
                if not left or perf_counter() >= self._due:
                    self._begin_turn()
                    if not self._has_room():
                        await get_running_loop().run_in_executor(None, self._wait_for_room)
                    left = self._items_until_turn()
                    if not left:
                        return
        finally:
            self._end()

    # -- adding --------------------------------------------------------------------------------------------------------

    def _add(self, value: Any) -> None:
        """Put an item into the batch.

        Raises:
            FrameTooLargeError: it is larger than ``max_payload``.
            ResultSerializationError: it cannot be pickled.
        """
        kind = type(value)
        if self._small and not self._encoded and (kind in SMALL or (kind is str and len(value) <= SHORT)):
            self._plain.append(value)
            return
        try:
            data = b"".join(self._codec.encode_result(value))
        except ResultSerializationError as error:
            raise ResultSerializationError(f"item {self._place()} of the stream: {error}") from error.__cause__
        if len(data) > self._max_payload:
            raise FrameTooLargeError(
                f"item {self._place()} of the stream takes {len(data)} bytes, more than max_payload={self._max_payload}"
            )
        self._encoded.append(data)
        self._size += len(data)
        if self._size >= BATCH_SIZE:
            self._due = 0.0

    def _place(self) -> int:
        """Return the number of the item that is being added, counted from 0."""
        return self._number + len(self._plain) + len(self._encoded)

    # -- turns ---------------------------------------------------------------------------------------------------------

    def _begin_turn(self) -> None:
        """Send what is due, and look what the parent says."""
        if not self._codec.mark.is_here():
            os._exit(0)  # the function forked, and its child goes on here
        waits = len(self._plain) + len(self._encoded)
        # The second thread is for items that may wait. Without it, each item is sent at once.
        if waits < self._most and perf_counter() < self._due and (self._late.is_armed or self._late.arm()):
            return
        self._flush()
        with self._lock:
            while self._read(wait=False):
                continue

    def _has_room(self) -> bool:
        waits = len(self._plain) + len(self._encoded)
        return self._is_closed or (self._items_ahead + waits < self._window and self._bytes_ahead < STREAM_BYTES)

    def _wait_for_room(self) -> None:
        """Wait until the function may yield another item, or until the parent wants no more."""
        while not self._has_room():
            self._flush()
            with self._lock:
                self._read(wait=True)

    def _items_until_turn(self) -> int:
        """Return the number of items until the next turn; 0 for the end."""
        if self._is_closed:
            return 0
        if not self._late.is_armed:
            return 1
        waits = len(self._plain) + len(self._encoded)
        return max(1, min(self._most - waits, self._window - self._items_ahead - waits))

    def _send_late(self) -> bool:
        """Send what has waited. Runs on the second thread. Returns False if there was nothing for a while."""
        try:
            if perf_counter() < self._due or self._flush():
                return True
            self._late.is_armed = False
            self._due = 0.0
            # The call's thread adds an item and then reads `_due`. So either it sees the zero, or the item is here.
            self._flush()
        except (MemoryError, OSError):
            # The call's thread gets the same error.
            self._late.is_armed = False
            self._due = 0.0
        return False

    def _end(self) -> None:
        """Send the rest, and end the second thread."""
        if not self._codec.mark.is_here():
            os._exit(0)
        self._late.end()
        self._flush()

    # -- sending -------------------------------------------------------------------------------------------------------

    def _flush(self) -> bool:
        """Send the batch. Returns False if there is none."""
        with self._lock:
            # First the encoded items: small ones are added only while there are none of these, so all small items that
            # are there then precede them.
            encoded = len(self._encoded)
            plain = len(self._plain)
            count = encoded + plain
            if not count:
                return False
            data = pickle.dumps((self._plain[:plain], self._encoded[:encoded]), 5)
            self._number += count
            del self._plain[:plain]
            del self._encoded[:encoded]
            self._size = 0
            if not self._is_closed:
                self._ahead.append((count, len(data)))
                self._items_ahead += count
                self._bytes_ahead += len(data)
                self._send(data, count)
            # If there is no room for more bytes, the next item waits.
            self._due = 0.0 if self._bytes_ahead >= STREAM_BYTES else perf_counter() + DELAY
            return True

    def _send(self, data: bytes, count: int) -> None:
        call_id, attempt = self._ref
        if len(data) <= CHUNK_SIZE:
            self._agent.send(encode(Kind.ITEMS, call_id, data, attempt=attempt, detail=count))
            return
        view = memoryview(data)
        for start in range(0, len(data), CHUNK_SIZE):
            while self._unconfirmed >= PIECES_AHEAD * CHUNK_SIZE and not self._is_closed:
                self._read(wait=True)
            if self._is_closed:
                return
            piece = view[start : start + CHUNK_SIZE]
            more = Flag.MORE if start + CHUNK_SIZE < len(data) else 0
            self._agent.send_chunk(HEADER.pack(Kind.ITEMS, more, attempt, count, call_id, len(piece)), piece)
            if more:
                self._unconfirmed += len(piece)

    def _read(self, *, wait: bool) -> bool:
        """Take one message of the parent. Returns False if there is none."""
        message = self._agent.receive_message(wait=wait)
        if message is None:
            return False
        flags, ref, amount = message
        if ref != self._ref:
            return True  # to a call that has ended
        if flags & Flag.END:
            self._is_closed = True
        elif flags & Flag.MORE:
            self._unconfirmed -= amount
        else:
            self._items_ahead -= amount
            while amount > 0 and self._ahead:
                count, size = self._ahead.popleft()
                self._bytes_ahead -= size
                amount -= count
        return True
