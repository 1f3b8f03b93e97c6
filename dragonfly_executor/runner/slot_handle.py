"""The agent's handle of a slot: hands calls to it, takes calls back, kills it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dragonfly_executor.core.slot_records import SlotRecord
from dragonfly_executor.protocol.frames import Frame
from dragonfly_executor.runner import process_tree
from dragonfly_executor.runner.new_slot import NewSlotOutput
from dragonfly_executor.runner.processor_time import ProcessorTime
from dragonfly_executor.runner.slot_calls import CallSender
from dragonfly_executor.runner.slot_link import SlotLink
from dragonfly_executor.transport.link import Link
from dragonfly_executor.transport.loop import Loop, Timer
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.core.slot_records import SlotCall
    from dragonfly_executor.runner.new_slot import NewSlot
    from dragonfly_executor.runner.private_descriptors import PrivateDescriptors
    from dragonfly_executor.transport.payload_buffer import ChunkBuffers

EXIT_TIMEOUT = 2.0
"""Seconds that a slot without calls has for its threads, exit handlers and finalizers, before it is killed."""


class SlotOutput(NewSlotOutput):
    """The output of a slot. Default: the slot inherits the agent's streams.

    See `slot_output_forwarder` for the subclasses.
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    def slot_is_forked(self, slot: Slot) -> None:
        """Start the agent's part."""

    def slot_is_ready(self, slot: Slot) -> None:
        """Attribute text that is written from now on to the slot's calls."""

    def forward(self, slot: Slot, frame: Frame) -> None:
        """Forward an OUTPUT frame that the slot itself sent."""

    def consumed(self, slot: Slot, amount: int) -> None:
        """Record that the parent has consumed `amount` bytes."""

    def slot_has_ended(self, slot: Slot) -> None:
        """Forward the text that is left in the pipes."""

    def last_output(self) -> str:
        """Return the end of the running call's stderr, as far as it is known."""
        return ""

    def send(self, frame: bytes) -> None:
        """Send a frame to the parent, behind all text of the slot."""
        self._link.send(frame)


class Slot:
    """One forked process that runs calls. `record` is what the scheduler knows of it.

    Args:
        loop: the agent's event loop.
        new: what the slot was forked from.
        pid: its process id.
        output: its output.
        private: the descriptors that no other slot may keep.
        on_frames: called with the slot and the frames that it sent.
        gpus: the numbers of its GPUs; None for its usual share.
        buffers: memory for chunks that are forwarded.
    """

    def __init__(
        self,
        loop: Loop,
        new: NewSlot,
        pid: int,
        *,
        output: SlotOutput,
        private: PrivateDescriptors,
        on_frames: Callable[[Slot, list[Frame]], None],
        on_results: Callable[[Slot, bytes, list[float]], None],
        gpus: frozenset[int] | None = None,
        buffers: ChunkBuffers | None = None,
    ) -> None:
        self.pid = pid
        self.output = output
        self.progress = new.progress
        self.stack = new.stack
        self._loop = loop
        self._private = private
        self._role = new.role
        self._title = new.title
        self._end_timer: Timer | None = None
        self._is_closed = False
        self.answer: Callable[[bytes], None] | None = None
        """Callback that sends the frame that ends a call behind the output of the call; None if there is no output."""
        self._calls = CallSender(new.queue)
        self._processor_time = ProcessorTime(pid)
        self.timer: Timer | None = None
        private.discard(new.descriptors())
        new.keep_agents_ends()
        self.record = record = SlotRecord(pid, loop.time(), new.progress.number, gpus)
        self.link = SlotLink(
            loop,
            new.agents_end,
            new.ring,
            lambda: record.in_flight,
            on_frames=lambda frames: on_frames(self, frames),
            on_results=lambda data, times: on_results(self, data, times),
            on_broken=lambda: loop.call_soon(self._kill_if_open),
            on_closed=self._on_link_closed,
            buffers=buffers,
        )
        self.output.slot_is_forked(self)
        private.add(self.descriptors())

    def _on_link_closed(self, reason: Exception | None) -> None:
        # The slot has closed its end, and lives on. The number of the descriptor may become another file's.
        self._private.discard((self.link.fileno(),))

    def descriptors(self) -> list[int]:
        """Return the descriptors that another slot must not keep open."""
        fds = (
            *self._calls.descriptors(),
            *self.link.descriptors(),
            *self.stack.descriptors(),
            *self.output.descriptors(),
        )
        return [fd for fd in fds if fd >= 0]

    def hand(self, calls: Sequence[SlotCall]) -> int:
        """Put calls into the slot's queue. Return how many; for the others there is no room, or the slot is dying."""
        return self._calls.hand(calls, is_idle=len(calls) == len(self.record.in_flight))

    def notify(self, packet: bytes) -> None:
        """Put a packet that is no call into the slot's queue. If the queue is full, it follows a later packet."""
        self._calls.notify(packet)

    def take_back(self) -> set[tuple[int, int]]:
        """Take back the calls that the slot has not claimed.

        Returns:
            Their ids and attempts. These calls have provably never started.
        """
        return self._calls.take_back(self.record.in_flight)

    def is_starved(self, call: SlotCall) -> bool:
        """Return True if the slot lacks processor time for this call, the first of its calls without an answer."""
        return not self.progress.may_have_begun(call.cell) or self._processor_time.is_lacking(call.number)

    def show_call(self, call_id: int) -> None:
        """Show the running call in the slot's title; 0 for no call."""
        if self._title is not None:
            self._title.set_in(self.pid, f"{self._role}, call {call_id}" if call_id else self._role)

    def retire(self) -> None:
        """Close the slot's queue. The slot ends when it has finished the calls that it has."""
        self._private.discard(self.descriptors())
        self._calls.retire()
        self._private.add(self.descriptors())

    def expect_end(self) -> None:
        """Kill the slot after `EXIT_TIMEOUT` seconds: it has no call left and is running its exit handlers."""
        if self._end_timer is None:
            self._end_timer = self._loop.call_later(EXIT_TIMEOUT, self.kill)

    def kill(self) -> None:
        """Send SIGKILL to the slot and to every process that its calls started."""
        process_tree.kill_tree(self.pid)

    def _kill_if_open(self) -> None:
        # Once it is closed, its process id may be another process's.
        if not self._is_closed:
            self.kill()

    def close(self) -> None:
        """Close the descriptors, and cancel the timer."""
        self._is_closed = True
        self._private.discard(self.descriptors())
        self._calls.close()
        if self._end_timer is not None:
            self._end_timer.cancel()
        self.link.close()
        self.link.close_ring()
        self.output.close()
        self.progress.close()
        self.stack.close()
