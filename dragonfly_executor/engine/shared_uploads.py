"""Sends shared objects over one link, some chunks at a time, when the runner asks for them."""

from __future__ import annotations

import time

from dragonfly_executor.protocol.compression import AT_ONCE, Compressor, with_place
from dragonfly_executor.protocol.frames import (
    CHUNK_SIZE,
    HEADER,
    KEPT_FROM,
    MAX_DETAIL,
    RESULT_OF,
    Flag,
    Frame,
    Kind,
    encode,
)
from dragonfly_executor.protocol.shared_entries import pack_numbers
from dragonfly_executor.transport.codecs import Codecs
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dragonfly_executor.serialization.content_registry import ContentRegistry
    from dragonfly_executor.serialization.shared_object import SharedContent
    from dragonfly_executor.transport.link import Link

    Ref = tuple[int, int]

MOST_KEPT = 1000
"""Number of results of a runner that are noted."""
CALLS_SLACK = 1000
"""Number of calls that have ended and may be noted."""


class SharedUploads:
    """The shared objects on their way to one runner. It belongs to the engine thread.

    Args:
        contents: the pool's contents.
        has_call: returns False if a call is not on the runner any more.
        later: runs a callback in the next pass of the loop.
    """

    def __init__(
        self,
        contents: ContentRegistry,
        has_call: Callable[[Ref], bool | None],
        later: Callable[[Callable[[], object]], object],
    ) -> None:
        self._contents = contents
        self._has_call = has_call
        self._later = later
        self._link: Link | None = None
        self.codecs = Codecs()
        """The codecs by which chunks may be compressed."""
        self._compressors: dict[int, Compressor] = {}
        self._places: dict[int, int] = {}
        """The next chunk of each object that is being sent."""
        self._ends: dict[int, int] = {}
        """The first chunk of each of them that is not requested yet."""
        self._first: set[int] = set()
        """The objects that no slot of the runner had when it began to receive them."""
        self._calls: dict[Ref, list[int]] = {}
        """The objects that each call on the runner needs. Calls that have ended are removed now and then."""
        self._calls_most = CALLS_SLACK
        self.keeps_results = False
        """True if the runner was told to keep its large results."""
        self._kept: dict[Ref, None] = {}
        """The last results that it may have kept, in order."""

    def attach(self, link: Link) -> None:
        """Send over this link from now on."""
        self._link = link

    def call_sent(self, ref: Ref, payload: object) -> None:
        """Note the objects that a call needs which is sent to the runner."""
        all_contents: Callable[[], Iterable[SharedContent]] | None = getattr(payload, "all_contents", None)
        contents = () if all_contents is None else all_contents()
        if not contents:
            return
        self._calls[ref] = [content.entry.number for content in contents]
        if len(self._calls) > self._calls_most:
            self._calls = {ref: numbers for ref, numbers in self._calls.items() if self._has_call(ref)}
            self._calls_most = 2 * len(self._calls) + CALLS_SLACK

    def result_arrived(self, ref: Ref, size: int) -> None:
        """Note a result of `size` bytes that has come in chunks: the runner may keep it."""
        if self.keeps_results and size >= KEPT_FROM:
            self._kept[ref] = None
            if len(self._kept) > MOST_KEPT:
                del self._kept[next(iter(self._kept))]

    def sent_whole(self, ref: Ref) -> None:
        """Note that a call's slot asks for the whole payload, so that it need not wait for any object."""
        self._calls.pop(ref, None)

    def waiting_calls(self) -> set[Ref]:
        """Return the calls that cannot have begun, because an object is not in any slot. The link is closed."""
        unwritten = set() if self._link is None else self._link.unwritten_objects
        absent = self._first & (self._places.keys() | unwritten)
        return {ref for ref, numbers in self._calls.items() if not absent.isdisjoint(numbers)}

    def requested(self, frame: Frame) -> None:
        """Send the next chunks of an object that the runner asks for."""
        number, chunks, from_start = frame.call_id, frame.detail, not frame.flags & Flag.MORE
        if self._link is None:
            return
        if from_start and frame.flags & Flag.RETRYABLE:
            self._first.add(number)
        elif from_start:
            self._first.discard(number)
        if self._contents.find(number) is None:
            self.forget((number,))
            self._link.reply(encode(Kind.SHARED_FORGET, payload=pack_numbers((number,))))
            return
        if from_start and self._kept and not frame.flags & Flag.ERROR and self._name_kept(number):
            return
        if from_start:
            self._places[number] = self._ends[number] = 0
            if self.codecs.names:
                self._compressors[number] = Compressor(self.codecs.loaded(), self._link.bulk_rate, time.thread_time)
        if number in self._places:  # otherwise the runner has the whole object
            self._ends[number] += chunks
            self._send(number)

    def _name_kept(self, number: int) -> bool:
        """Name the result that an object is, in place of sending it. Returns False if the runner does not keep it."""
        result = self._contents.result_of(number)
        if result is None or result not in self._kept or self._link is None:
            return False
        # From now on the runner may have the object at any time.
        self._first.discard(number)
        self._drop(number)
        self._link.reply(encode(Kind.KEPT_RESULT, number, RESULT_OF.pack(*result)))
        return True

    def _send(self, number: int) -> None:
        """Send the chunks of an object that are requested. Compress only some in one pass: others must not wait."""
        data, place = self._contents.find(number), self._places.get(number)
        if data is None or place is None or self._link is None:
            return
        last = (len(data) - 1) // CHUNK_SIZE
        end, compressor = min(self._ends[number], last + 1), self._compressors.get(number)
        stop = end if compressor is None else min(end, place + AT_ONCE)
        for here in range(place, stop):
            piece = data[here * CHUNK_SIZE : (here + 1) * CHUNK_SIZE]
            flags = Flag.MORE if here < last else 0
            header = HEADER.pack(Kind.SHARED_DATA, flags, 0, here & MAX_DETAIL, number, len(piece))
            if compressor is None:
                self._link.send_bulk(header, piece)
            else:
                self._link.send_bulk(*with_place(header, *compressor.compress(header, piece)))
        if stop > last:
            self._drop(number)
            return
        self._places[number] = stop
        if stop < end:
            self._later(lambda: self._send(number))

    def _drop(self, number: int) -> None:
        self._places.pop(number, None)
        self._ends.pop(number, None)
        self._compressors.pop(number, None)

    def forget(self, numbers: Iterable[int]) -> None:
        """Drop the objects that were freed."""
        for number in numbers:
            self._drop(number)
            self._first.discard(number)
