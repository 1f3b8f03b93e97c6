"""The agent's part of what comes back from calls: what a slot writes, on its way to the parent.

Whose text is it? A slot has several cheap calls at once and runs them without a word from the agent. So at the end of
each the slot itself reads what its pipes hold (`slot_output`), and sends it before the result. The agent reads the
pipes only while it is certain what the slot does: while it has one call and nothing behind it, which is arranged for
every call that runs longer than some milliseconds, while it has none, and until it is ready. Then the text goes out as
it is written. The two take turns: while the slot has in its hand what was written first, the agent must not send what
was written then.

A slot that wrote more than `WINDOW` which nobody has consumed is not read any more, until the parent says otherwise:
its pipe fills, and the call waits. What it wrote goes ahead of results as long as it is little; a flood takes the
link's second lane, where it delays no heartbeat and no other call, and its own call's result then comes behind it.
"""

from __future__ import annotations

from collections.abc import Callable

from dragonfly_executor.protocol.frames import HEADER, HEADER_SIZE, Flag, Frame, Kind, encode
from dragonfly_executor.protocol.output_window import WINDOW, weight
from dragonfly_executor.runner import output_pipes
from dragonfly_executor.runner.dispatch import Dispatcher
from dragonfly_executor.runner.output_pipes import Pipes
from dragonfly_executor.runner.slot_handle import Slot, SlotOutput
from dragonfly_executor.runner.slot_output import OwnOutput
from dragonfly_executor.transport.link import Link
from dragonfly_executor.transport.loop import Loop, Timer
from dragonfly_executor.transport.sockets import Socket

# A runner imports this, and importing typing would take as long as all the rest. Type checkers take the name for true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LIVE_AFTER = 0.003
"""Seconds after which a call that has others behind it is given the slot for itself, so that its text goes out."""
LITTLE = 64 * 1024
"""What a slot may have on its way ahead of results."""
LAST_WORDS = 4 * 1024
"""Bytes of a call's stderr that the error of a slot that dies under it carries."""


def maker(session: dict[str, Any], loop: Loop, link: Link, dispatcher: Dispatcher) -> Callable[[], SlotOutput]:
    """Makes the output of each slot, as the parent's WELCOME says."""
    output_pipes.occupy_standard_descriptors()
    if session["output"] == "drop":
        return lambda: DroppedOutput(link)
    return lambda: SentOutput(loop, link, dispatcher, session["log_level"])


class DroppedOutput(SlotOutput):
    """Of a slot whose calls' output nobody wants."""

    def take_over(self, results: Socket) -> OwnOutput | None:
        """See `SlotOutput`."""
        output_pipes.drop()
        return None


class SentOutput(SlotOutput):
    """Of a slot whose calls' output the parent wants."""

    def __init__(self, loop: Loop, link: Link, dispatcher: Dispatcher, log_level: int | None) -> None:
        super().__init__(link)
        self._loop = loop
        self._dispatcher = dispatcher
        self._log_level = log_level
        self._pipes = Pipes(logs=log_level is not None)
        self._on_its_way = 0
        self._is_flood = False
        self._is_full = False
        self._last_words = bytearray()
        self._look_again: Timer | None = None

    def take_over(self, results: Socket) -> OwnOutput:
        """See `SlotOutput`."""
        return OwnOutput(self._pipes, results, self._log_level)

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
            self._loop.add_reader(fd, lambda fd=fd: self._read(slot, fd))  # type: ignore[misc]

    def _ignore(self) -> None:
        for fd in self._pipes.descriptors():
            self._loop.remove_reader(fd)

    def _read(self, slot: Slot, fd: int) -> None:
        """One of the pipes holds something."""
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
        # What the slot has read and sent first; and results that are there: what they end has nothing in the pipes.
        slot.link.drain_reads()
        if self._is_unsure(slot) and not self._make_sure(slot):
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
        """Look again in a moment."""
        self._ignore()
        if self._look_again is None:
            self._look_again = self._loop.call_later(LIVE_AFTER, lambda: self._look(slot))

    def _look(self, slot: Slot) -> None:
        self._look_again = None
        if not self._is_full:
            self._watch(slot)

    @staticmethod
    def _is_unsure(slot: Slot) -> bool:
        """Whether the slot may be running another call than the first that has not been answered."""
        return slot.ready and bool(slot.in_flight) and not slot.stuck

    def _make_sure(self, slot: Slot) -> bool:
        """Let the slot have nothing behind the call that it runs; whether that is so now."""
        if len(slot.in_flight) == 1:
            slot.stuck = True
            return True
        if self._loop.time() - slot.since < LIVE_AFTER:
            return False
        self._dispatcher.hold_back(slot)
        # What it has taken meanwhile, it has taken after the result of the one before.
        slot.link.drain_reads()
        return not self._is_unsure(slot)

    @staticmethod
    def _running(slot: Slot) -> tuple[int, int]:
        """The call that the slot runs, by id and attempt; zeros for none."""
        if not slot.ready or not slot.in_flight:
            return 0, 0
        return slot.in_flight[0].call_id, slot.in_flight[0].attempt

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
        """What ends a call that wrote something: a result, or that it was stopped or lost."""
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
        # All of it must have left the second lane before something may take the first.
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

    def last_words(self) -> str:
        """See `SlotOutput`."""
        return self._last_words.decode(errors="replace")

    def descriptors(self) -> list[int]:
        """See `SlotOutput`."""
        return self._pipes.descriptors()

    def close(self) -> None:
        """See `SlotOutput`."""
        if self._look_again is not None:
            self._look_again.cancel()
        self._ignore()
        self._pipes.close()
