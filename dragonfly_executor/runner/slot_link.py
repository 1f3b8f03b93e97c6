"""The agent's end of the stream from a slot and of the slot's ring of results: one sequence of answers.

Small results come through the ring, and all other frames through the stream. A slot answers its calls in their order,
and sends the result of a call through the stream if it has sent other frames during that call. So the order is known
from the calls that the slot holds: a result in the ring that is not of the first of these calls follows an answer that
is in the stream.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.frames import HEADER, HEADER_SIZE, Decoder, Flag, Frame, Kind
from dragonfly_executor.transport.link import Link
from dragonfly_executor.transport.loop import Loop
from dragonfly_executor.transport.sockets import Socket
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.core.slot_records import Ref, SlotCall
    from dragonfly_executor.runner.result_ring import ResultRing
    from dragonfly_executor.transport.payload_buffer import ChunkBuffers

RESULT = int(Kind.RESULT)
LONE_ANSWERS = (Kind.IDLE, Kind.RETURNED)


def times_in_order(data: bytes, calls: Iterable[SlotCall]) -> list[float] | None:
    """Return how long the calls took whose results these are, in seconds.

    Args:
        data: RESULT frames.
        calls: the calls that the slot has not answered, in order.

    Returns:
        None if these are not the results of the first of the calls, or not whole frames.
    """
    times: list[float] = []
    position, end = 0, len(data)
    unpack, append = HEADER.unpack_from, times.append
    try:
        for call in calls:
            kind, _, attempt, microseconds, call_id, length = unpack(data, position)
            if call_id != call.call_id or attempt != call.attempt or kind != RESULT:
                return None
            append(microseconds * 1e-6)
            position += HEADER_SIZE + length
            if position == end:
                return times
    except struct.error:
        pass  # a frame is cut off
    return None


def is_last_of_answer(frame: Frame) -> bool:
    """Return True if the slot is done with its first call after this frame."""
    if frame.kind == RESULT:
        return not frame.flags & Flag.LARGE
    if frame.kind == Kind.CHUNK:
        return not frame.flags & Flag.MORE
    return frame.kind in LONE_ANSWERS


def in_order(
    frames: Sequence[Frame], results: Sequence[Frame], refs: Sequence[Ref]
) -> tuple[list[Frame], Sequence[Frame]]:
    """Bring frames of the stream, and results from the ring, into the order in which the slot sent them.

    Args:
        frames: frames of the stream, in order.
        results: results from the ring, in order. None is missing that the slot sent before one of `frames`.
        refs: id and attempt of the calls that the slot has not answered, in order.

    Returns:
        The frames in their order, and the results that follow other frames, which have yet to arrive.
    """
    ordered: list[Frame] = []
    answered = taken = 0

    def take_results() -> None:
        nonlocal answered, taken
        while (
            taken < len(results)
            and answered < len(refs)
            and (results[taken].call_id, results[taken].attempt) == refs[answered]
        ):
            ordered.append(results[taken])
            taken += 1
            answered += 1

    take_results()
    for frame in frames:
        ordered.append(frame)
        if is_last_of_answer(frame):
            answered += 1
            take_results()
    return ordered, results[taken:]


def split_results(data: bytes) -> list[Frame]:
    """Split results from the ring into frames.

    Raises:
        ProtocolError: they are not whole RESULT frames.
    """
    decoder = Decoder()
    frames = decoder.feed(data)
    if decoder.pending or any(frame.kind != RESULT for frame in frames):
        raise ProtocolError("the slot's ring has other bytes than whole results")
    return frames


class SlotLink(Link):
    """The agent's end of what a slot sends.

    Args:
        loop: the agent's loop.
        sock: the stream.
        ring: the ring of results; None if there is none.
        calls: returns the calls that the slot has not answered, in order.
        on_frames: called with the frames that a read completed, and the results between them.
        on_results: called with results from the ring, as bytes, and how long their calls took in seconds.
        on_broken: called if the slot's ring does not have what a slot writes.
        on_closed: see `Link`.
        buffers: see `Link`.
    """

    def __init__(
        self,
        loop: Loop,
        sock: Socket,
        ring: ResultRing | None,
        calls: Callable[[], Iterable[SlotCall]],
        *,
        on_frames: Callable[[list[Frame]], None],
        on_results: Callable[[bytes, list[float]], None],
        on_broken: Callable[[], None],
        on_closed: Callable[[Exception | None], None] = lambda reason: None,
        buffers: ChunkBuffers | None = None,
    ) -> None:
        super().__init__(loop, sock, on_frames if ring is None else self._on_stream, on_closed, buffers=buffers)
        self._ring = ring
        self._calls = calls
        self._pass_frames = on_frames
        self._pass_results = on_results
        self._on_broken = on_broken
        self._early: Sequence[Frame] = ()
        """Results from the ring that follow frames of the stream, which have yet to be read."""
        self._is_broken = False
        if ring is not None:
            loop.add_reader(ring.fileno(), self._read_ring)

    def pause(self) -> None:
        """See `Link`."""
        super().pause()
        if self._ring is not None and self._pauses == 1:
            self._loop.remove_reader(self._ring.fileno())

    def resume(self) -> None:
        """See `Link`."""
        super().resume()
        if self._ring is not None and not self._pauses and self._ring.fileno() >= 0 and not self._is_broken:
            self._loop.add_reader(self._ring.fileno(), self._read_ring)

    def drain_reads(self) -> None:
        """See `Link`."""
        super().drain_reads()
        if not self._pauses:
            self._read_ring()

    def drain_until(self, is_enough: Callable[[], bool]) -> None:
        """See `Link`."""
        super().drain_until(is_enough)
        if not is_enough():
            self._read_results(is_enough)

    def close_ring(self) -> None:
        """Close the ring. It outlives the stream: a slot whose stream was closed by a call still has results."""
        if self._ring is not None and self._ring.fileno() >= 0:
            self._loop.remove_reader(self._ring.fileno())
            self._ring.close()

    def descriptors(self) -> set[int]:
        """Return the descriptors that a forked child must not keep."""
        # A slot that closed its end lives on. Then the stream is closed here, and its number may be another file's.
        fds = set() if self.closed else super().descriptors()
        if self._ring is not None and self._ring.fileno() >= 0:
            fds.add(self._ring.fileno())
        return fds

    def _break(self) -> None:
        """Report a ring that has other bytes than results, and read nothing from it any more."""
        self._is_broken = True
        self._early = ()
        if self._ring is not None:
            self._loop.remove_reader(self._ring.fileno())
        self._on_broken()

    def _read_ring(self) -> None:
        self._read_results(self._has_pauses)

    def _has_pauses(self) -> bool:
        return self._pauses > 0

    def _read_results(self, is_enough: Callable[[], bool]) -> None:
        """Take the results in the ring, and first the frames of the stream that precede them, until `is_enough`."""
        ring = self._ring
        if ring is None or ring.fileno() < 0 or self._is_broken:
            return
        try:
            data = ring.take()
            if data and not self._early and (times := times_in_order(data, self._calls())) is not None:
                self._pass_results(data, times)
                return
            self._early = [*self._early, *split_results(data)]
        except ProtocolError:
            self._break()
            return
        while self._early and not is_enough():
            if self.closed or not self._read():
                self._break()
                return

    def _on_stream(self, frames: list[Frame]) -> None:
        """Pass frames of the stream on, with the results that the slot wrote before and between them."""
        assert self._ring is not None  # noqa: S101  # it is only then that frames come here
        results = self._early
        if self._ring.fileno() >= 0 and not self._is_broken:
            try:
                results = [*results, *split_results(self._ring.take())]
            except ProtocolError:
                self._break()
        if results:
            frames, self._early = in_order(frames, results, [call.ref for call in self._calls()])
        self._pass_frames(frames)
