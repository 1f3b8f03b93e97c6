"""The agent's half of output: forwards the text that slots write to the parent.

A slot holds several cheap calls at once and runs them without waiting for the agent. So the slot itself reads its pipes
at the end of each call (`slot_output`), and sends the text before the result. The agent reads the pipes only while it
knows which call the slot runs: before the slot is ready, while it has no call, and while it has a single call. The
agent arranges the last for every call that runs longer than some milliseconds. Then text is forwarded as it is written.
Slot and agent take turns, because the agent must not send later text while the slot holds earlier text.

If a slot has written more than `WINDOW` bytes that are not consumed, the agent stops reading from it until the parent
reports consumption. The slot's pipe fills, and the call blocks. A small amount of text goes ahead of results. A flood
takes the link's second lane, where it delays no heartbeat and no other call. Its own call's result then follows it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from dragonfly_executor.protocol.frames import HEADER, HEADER_SIZE, Flag, Frame, Kind, encode
from dragonfly_executor.protocol.output_window import WINDOW, weight
from dragonfly_executor.runner import output_pipes
from dragonfly_executor.runner.dispatch import Dispatcher
from dragonfly_executor.runner.output_pipes import OutputPipes
from dragonfly_executor.runner.slot_handle import Slot, SlotOutput
from dragonfly_executor.runner.slot_output import SlotStreams
from dragonfly_executor.transport.link import Link
from dragonfly_executor.transport.loop import Loop, Timer
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.runner.agent_stream import AgentStream

LIVE_AFTER = 0.003
"""Seconds after which a call gets the slot for itself, so that its text is forwarded as it is written."""
LITTLE = 64 * 1024
"""Bytes of a slot's text that may be in transit ahead of results."""
LAST_WORDS = 4 * 1024
"""Bytes of a call's stderr that the error of a slot crash carries."""


def maker(welcome: dict[str, Any], loop: Loop, link: Link, dispatcher: Dispatcher) -> Callable[[], SlotOutput]:
    """Return the function that makes each slot's output, as configured by the parent's WELCOME."""
    output_pipes.occupy_standard_descriptors()
    if welcome["output"] == "drop":
        return lambda: DroppedOutput(link)
    return lambda: SentOutput(loop, link, dispatcher, welcome["log_level"])


class DroppedOutput(SlotOutput):
    """The output of a slot whose text is discarded."""

    def take_over(self, agent: AgentStream) -> SlotStreams | None:
        """See `SlotOutput`."""
        output_pipes.drop()
        return None


class SentOutput(SlotOutput):
    """The output of a slot whose text is sent to the parent."""

    def __init__(self, loop: Loop, link: Link, dispatcher: Dispatcher, log_level: int | None) -> None:
        super().__init__(link)
        self._loop = loop
        self._dispatcher = dispatcher
        self._log_level = log_level
        self._pipes = OutputPipes(logs=log_level is not None)
        self._on_its_way = 0
        self._is_flood = False
        self._is_full = False
        self._last_words = bytearray()
        self._check_timer: Timer | None = None

    def take_over(self, agent: AgentStream) -> SlotStreams:
        """See `SlotOutput`."""
        return SlotStreams(self._pipes, agent, self._log_level)

    def slot_is_forked(self, slot: Slot) -> None:
        """See `SlotOutput`."""
        self._pipes.keep_reading_ends()
        self._watch(slot)

    def slot_is_ready(self, slot: Slot) -> None:
        """See `SlotOutput`."""
        slot.link.send(encode(Kind.READY))

    # -- reading ------------------------------------------------------------------------------------------------------

    def _watch(self, slot: Slot) -> None:
        for fd in self._pipes.sources:
            self._loop.add_reader(fd, partial(self._read, slot, fd))

    def _ignore(self) -> None:
        for fd in self._pipes.descriptors():
            self._loop.remove_reader(fd)

    def _read(self, slot: Slot, fd: int) -> None:
        """Read a pipe that has data, if the agent may read it now."""
        if fd not in self._pipes.sources or self._is_full:
            return
        if not self._pipes.take_turn():
            self._leave_to_slot(slot)
            return
        try:
            self._read_in_turn(slot, fd)
        finally:
            self._pipes.give_turn()

    def _read_in_turn(self, slot: Slot, fd: int) -> None:
        # First handle the text that the slot has sent, and the results: a call that has ended has no text left in the
        # pipes. If the link is paused meanwhile, some of them may still be unread.
        slot.link.drain_reads()
        if self._is_full:
            return
        if slot.link.is_paused or (self._is_unsure(slot) and not self._make_sure(slot)):
            self._leave_to_slot(slot)
            return
        call_id, attempt = self._running(slot)
        flags = self._pipes.sources[fd]
        for frame in self._pipes.frames(fd, call_id, attempt, slot.pid):
            self._forward(slot, frame, call_id, flags)
            if self._is_full:
                return
        if fd not in self._pipes.sources:
            self._loop.remove_reader(fd)

    def _leave_to_slot(self, slot: Slot) -> None:
        """Stop watching the pipes, and watch them again after `LIVE_AFTER` seconds."""
        self._ignore()
        if self._check_timer is None:
            self._check_timer = self._loop.call_later(LIVE_AFTER, lambda: self._check_pipes(slot))

    def _check_pipes(self, slot: Slot) -> None:
        self._check_timer = None
        if not self._is_full:
            self._watch(slot)

    @staticmethod
    def _is_unsure(slot: Slot) -> bool:
        """Return True if the slot may be running another call than its first unanswered one."""
        record = slot.record
        return record.is_ready and bool(record.in_flight) and not record.is_stuck

    def _make_sure(self, slot: Slot) -> bool:
        """Take back the calls behind the slot's running call. Return True if its running call is certain now."""
        is_alone = len(slot.record.in_flight) == 1
        if not is_alone and self._loop.time() - slot.record.since < LIVE_AFTER:
            return False
        self._dispatcher.hold_back(slot)
        if is_alone:
            return True
        # The slot took the remaining call only after it sent the previous result.
        slot.link.drain_reads()
        return not slot.link.is_paused and not self._is_unsure(slot)

    @staticmethod
    def _running(slot: Slot) -> tuple[int, int]:
        """Return the id and attempt of the slot's running call; zeros for none."""
        record = slot.record
        return record.in_flight[0].ref if record.is_ready and record.in_flight else (0, 0)

    # -- sending ------------------------------------------------------------------------------------------------------

    def forward(self, slot: Slot, frame: Frame) -> None:
        """See `SlotOutput`."""
        self._forward(slot, frame.raw, frame.call_id, frame.flags)

    def _forward(self, slot: Slot, frame: bytes, call_id: int, flags: int) -> None:
        if call_id and slot.answer is None:
            slot.answer = lambda answer: self._answer(slot, answer)
        if call_id and flags & Flag.STDERR:
            self._last_words += frame[-min(LAST_WORDS, len(frame) - HEADER_SIZE) :]
            del self._last_words[:-LAST_WORDS]
        self._on_its_way += weight(frame)
        if self._on_its_way > LITTLE:
            self._is_flood = True
        self.send(frame)
        if self._on_its_way > WINDOW and not self._is_full:
            self._is_full = True
            self._ignore()
            slot.link.pause()

    def send(self, frame: bytes) -> None:
        """See `SlotOutput`."""
        (self._link.send_bulk if self._is_flood else self._link.send)(frame)

    def _answer(self, slot: Slot, answer: bytes) -> None:
        """Send the end of a call's output, then the frame that ends the call: a result, GONE, TIMED_OUT or LOST."""
        _, _, attempt, _, call_id, _ = HEADER.unpack_from(answer)
        end = encode(Kind.OUTPUT, call_id, flags=Flag.END, attempt=attempt, detail=slot.pid)
        self._on_its_way += weight(end)
        self.send(end)
        self.send(answer)
        slot.answer = None
        self._last_words.clear()

    def consumed(self, slot: Slot, amount: int) -> None:
        """See `SlotOutput`."""
        self._on_its_way -= amount
        # The second lane must be empty before a frame may take the first lane, so that frames stay in order.
        if self._on_its_way <= LITTLE and not self._link.queued_bulk:
            self._is_flood = False
        if self._is_full and self._on_its_way <= WINDOW // 2:
            self._is_full = False
            self._watch(slot)
            slot.link.resume()

    # -- the end ------------------------------------------------------------------------------------------------------

    def slot_has_ended(self, slot: Slot) -> None:
        """See `SlotOutput`."""
        call_id, attempt = self._running(slot)
        for fd, flags in list(self._pipes.sources.items()):
            for frame in self._pipes.frames(fd, call_id, attempt, slot.pid):
                self._forward(slot, frame, call_id, flags)

    def last_output(self) -> str:
        """See `SlotOutput`."""
        return self._last_words.decode(errors="replace")

    def descriptors(self) -> list[int]:
        """See `SlotOutput`."""
        return self._pipes.descriptors()

    def close(self) -> None:
        """See `SlotOutput`."""
        if self._check_timer is not None:
            self._check_timer.cancel()
        self._ignore()
        self._pipes.close()
