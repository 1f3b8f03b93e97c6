"""The agent's handle of a slot: hands calls to it, takes calls back, kills it."""

from __future__ import annotations

<<<<<<< HEAD
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from dragonfly_executor.core.slot_records import SlotRecord
from dragonfly_executor.protocol.frames import Frame
from dragonfly_executor.runner import process_tree, slot_process
from dragonfly_executor.runner.fault_traceback import FaultTraceback
from dragonfly_executor.runner.processor_time import ProcessorTime
from dragonfly_executor.runner.result_ring import ResultRing
from dragonfly_executor.runner.slot_calls import CallSender, SlotQueue
from dragonfly_executor.runner.slot_link import SlotLink
from dragonfly_executor.transport.link import Link
from dragonfly_executor.transport.loop import Loop, Timer
from dragonfly_executor.transport.sockets import SO_SNDBUF, SOL_SOCKET, Socket, socketpair
=======
from collections.abc import Callable

from dragonfly_executor.core.slot_records import SlotRecord
from dragonfly_executor.protocol.frames import FORGOTTEN_AT_ONCE, HEADER, HEADER_SIZE, Frame, Kind
from dragonfly_executor.runner import process_tree
from dragonfly_executor.runner.new_slot import NewSlotOutput
from dragonfly_executor.runner.processor_time import ProcessorTime
from dragonfly_executor.runner.slot_link import SlotLink
from dragonfly_executor.transport.link import Link
from dragonfly_executor.transport.loop import Loop, Timer
from dragonfly_executor.transport.sockets import MSG_DONTWAIT
>>>>>>> main
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

<<<<<<< HEAD
    def descriptors(self) -> list[int]:
        """Return the descriptors that another slot must not inherit."""
        return []

    def close(self) -> None:
        """Close the descriptors."""


STREAM_BUFFER = 256 * 1024
"""Send buffer of a slot's stream in bytes, in each direction. A chunk of a large payload then leaves in one write."""


def _fork(stack: FaultTraceback) -> tuple[int, SlotQueue, ResultRing | None, Socket, Socket]:
    """Make a slot's queue, its ring and both ends of its stream, and fork. On an error, close these and `stack`."""
    made: list[SlotQueue | ResultRing | Socket] = []
    try:
        queue, ring = SlotQueue(), None
        made.append(queue)
        ring = ResultRing.make()
        if ring is not None:
            made.append(ring)
        own_end, slot_end = socketpair()
        made += own_end, slot_end
        for sock in (own_end, slot_end):
            sock.setsockopt(SOL_SOCKET, SO_SNDBUF, STREAM_BUFFER)
        return os.fork(), queue, ring, own_end, slot_end
    except OSError:
        stack.close()
        for each in made:
            each.close()
        raise

=======
>>>>>>> main

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
<<<<<<< HEAD
        self.stack = FaultTraceback()
        agent_pid = os.getpid()
        self.pid, queue, ring, own_end, slot_end = _fork(self.stack)
        if self.pid == 0:
            self._become_slot(inherited, queue, own_end, slot_end, ring, setup, place, agent_pid)
        slot_end.close()
        self._calls = CallSender(queue)
        self.stack.keep_reader()
        self._processor_time = ProcessorTime(self.pid)
        if ring is not None:
            ring.is_forked()
        self.record = record = SlotRecord(self.pid, loop.time(), progress.number, gpus)
=======
        self._notices: list[bytes] = []
        """Packets for which the queue had no room."""
        self._calls, self._taken_by_slot = new.calls, new.taken_by_slot
        self._processor_time = ProcessorTime(pid)
        self.timer: Timer | None = None
        private.discard(new.descriptors())
        new.keep_agents_ends()
        self.record = record = SlotRecord(pid, loop.time(), new.progress.number, gpus)
>>>>>>> main
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

<<<<<<< HEAD
    def _become_slot(
        self,
        inherited: Callable[[], list[int]],
        queue: SlotQueue,
        own_end: Socket,
        slot_end: Socket,
        ring: ResultRing | None,
        setup: bytes,
        place: WorkingDirectory | None,
        agent: int,
    ) -> NoReturn:
        """Close the agent's descriptors in the forked child, then run calls. Never return to the agent's code."""
        try:
            process_tree.close_all((*inherited(), own_end.fileno()))
            self.stack.record()
            os.environ.update(self._environment)
            if self._title is not None:
                self._title.set(self._role)
            slot_process.main(
                queue,
                slot_end,
                ring,
                setup=setup,
                place=place,
                rendezvous=self._rendezvous,
                agent_pid=agent,
                take_over_output=self.output.take_over,
                progress=self.progress,
            )
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            os._exit(1)
=======
    def _on_link_closed(self, reason: Exception | None) -> None:
        # The slot has closed its end, and lives on. The number of the descriptor may become another file's.
        self._private.discard((self.link.fileno(),))
>>>>>>> main

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
<<<<<<< HEAD
        self._calls.retire()
=======
        self._private.discard((self._calls.fileno(),))
        self._calls.close()
>>>>>>> main

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
