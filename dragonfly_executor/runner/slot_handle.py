"""The agent's handle of a slot: forks it, hands calls to it, takes calls back, kills it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping

from dragonfly_executor.core.slot_records import SlotRecord
from dragonfly_executor.protocol.frames import FORGOTTEN_AT_ONCE, HEADER, HEADER_SIZE, Frame, Kind
from dragonfly_executor.runner import process_tree, slot_process
from dragonfly_executor.runner.fault_traceback import FaultTraceback
from dragonfly_executor.runner.processor_time import ProcessorTime
from dragonfly_executor.runner.result_ring import ResultRing
from dragonfly_executor.runner.slot_link import SlotLink
from dragonfly_executor.transport.link import Link
from dragonfly_executor.transport.loop import Loop, Timer
from dragonfly_executor.transport.sockets import MSG_DONTWAIT, PACKETS, SO_SNDBUF, SOL_SOCKET, Socket, socketpair
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NoReturn

    from dragonfly_executor.core.slot_records import SlotCall
    from dragonfly_executor.runner.agent_stream import AgentStream
    from dragonfly_executor.runner.process_title import ProcessTitle
    from dragonfly_executor.runner.slot_output import SlotStreams
    from dragonfly_executor.runner.slot_progress import Progress
    from dragonfly_executor.serialization.working_directory import WorkingDirectory
    from dragonfly_executor.transport.payload_buffer import ChunkBuffers

NOTICE_SIZE = HEADER_SIZE + 8 * FORGOTTEN_AT_ONCE
"""Size of the longest packet that is no call."""
EXIT_TIMEOUT = 2.0
"""Seconds that a slot without calls has for its threads, exit handlers and finalizers, before it is killed."""


class SlotOutput:
    """The output of a slot. Default: the slot inherits the agent's streams.

    See `slot_output_forwarder` for the subclasses.
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    def take_over(self, agent: AgentStream) -> SlotStreams | None:
        """Redirect the streams of the forked slot. Return the reader of its calls' output, or None if there is none."""
        return None

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

    def descriptors(self) -> list[int]:
        """Return the descriptors that another slot must not inherit."""
        return []

    def close(self) -> None:
        """Close the descriptors."""


STREAM_BUFFER = 256 * 1024
"""Send buffer of a slot's stream in bytes, in each direction. A chunk of a large payload then leaves in one write."""


def _fork(stack: FaultTraceback) -> tuple[int, ResultRing | None, list[Socket]]:
    """Make a slot's ring and its four sockets, and fork. On an error, close these and `stack`."""
    made: list[Socket] = []
    ring: ResultRing | None = None
    try:
        ring = ResultRing.make()
        made.extend(socketpair(PACKETS))
        made.extend(socketpair())
        for sock in made[2:]:
            sock.setsockopt(SOL_SOCKET, SO_SNDBUF, STREAM_BUFFER)
        return os.fork(), ring, made
    except OSError:
        stack.close()
        if ring is not None:
            ring.close()
        for sock in made:
            sock.close()
        raise


class Slot:
    """One forked process that runs calls. `record` is what the scheduler knows of it.

    It sets the variables of `environment` before it does anything else.
    """

    def __init__(
        self,
        loop: Loop,
        progress: Progress,
        *,
        setup: bytes,
        place: WorkingDirectory | None,
        rendezvous: Socket | None,
        inherited: Callable[[], list[int]],
        on_frames: Callable[[Slot, list[Frame]], None],
        on_results: Callable[[Slot, bytes, list[float]], None],
        output: SlotOutput,
        title: ProcessTitle | None,
        environment: Mapping[str, str],
        gpus: frozenset[int] | None = None,
        buffers: ChunkBuffers | None = None,
    ) -> None:
        self.output = output
        self.progress = progress
        self._rendezvous = rendezvous
        self._role = f"slot {progress.number}"
        self._title = title
        self._environment = environment
        self._loop = loop
        self._end_timer: Timer | None = None
        self._is_closed = False
        self.answer: Callable[[bytes], None] | None = None
        """Callback that sends the frame that ends a call behind the output of the call; None if there is no output."""
        self._notices: list[bytes] = []
        """Packets for which the queue had no room."""
        self.stack = FaultTraceback()
        agent_pid = os.getpid()
        self.pid, ring, (self._calls, self._taken_by_slot, own_end, slot_end) = _fork(self.stack)
        if self.pid == 0:
            self._become_slot(inherited, own_end, slot_end, ring, setup, place, agent_pid)
        slot_end.close()
        self.stack.keep_reader()
        self._processor_time = ProcessorTime(self.pid)
        if ring is not None:
            ring.is_forked()
        self.record = record = SlotRecord(self.pid, loop.time(), progress.number, gpus)
        self.link = SlotLink(
            loop,
            own_end,
            ring,
            lambda: record.in_flight,
            on_frames=lambda frames: on_frames(self, frames),
            on_results=lambda data, times: on_results(self, data, times),
            on_broken=lambda: loop.call_soon(self._kill_if_open),
            buffers=buffers,
        )
        self.timer: Timer | None = None
        output.slot_is_forked(self)

    def _become_slot(
        self,
        inherited: Callable[[], list[int]],
        own_end: Socket,
        slot_end: Socket,
        ring: ResultRing | None,
        setup: bytes,
        place: WorkingDirectory | None,
        agent: int,
    ) -> NoReturn:
        """Close the agent's descriptors in the forked child, then run calls. Never return to the agent's code."""
        try:
            process_tree.close_all((*inherited(), self._calls.fileno(), own_end.fileno()))
            self.stack.record()
            os.environ.update(self._environment)
            if self._title is not None:
                self._title.set(self._role)
            slot_process.main(
                self._taken_by_slot,
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

    def descriptors(self) -> list[int]:
        """Return the descriptors that another slot must not keep open."""
        own = (self._calls.fileno(), self._taken_by_slot.fileno(), *self.link.descriptors())
        fds = (*own, *self.stack.descriptors(), *self.output.descriptors())
        return [fd for fd in fds if fd >= 0]

    def hand(self, packet: bytes) -> bool:
        """Put a call into the slot's queue. Return False if the queue is full or the slot is dying."""
        try:
            self._calls.send(packet, MSG_DONTWAIT)
        except OSError:
            # If the slot is dying, the end of its process is reported separately.
            return False
        return True

    def notify(self, packet: bytes) -> None:
        """Put a packet that is no call into the slot's queue. If the queue is full, it follows a later packet."""
        self._notices.append(packet)
        while self._notices and self.hand(self._notices[0]):
            del self._notices[0]

    def take_back(self) -> set[tuple[int, int]]:
        """Take the calls that the slot has not taken out of its queue.

        Returns:
            Their ids and attempts. These calls have provably never started.
        """
        refs: set[tuple[int, int]] = set()
        notices: list[bytes] = []
        while len(refs) < len(self.record.in_flight):
            try:
                packet = self._taken_by_slot.recv(NOTICE_SIZE, MSG_DONTWAIT)
            except (BlockingIOError, InterruptedError):
                break
            if not packet:
                break
            kind, _, attempt, _, call_id, _ = HEADER.unpack_from(packet)
            if kind == Kind.SHARED_FORGET:
                notices.append(packet)
            else:
                refs.add((call_id, attempt))
        for packet in notices:
            self.notify(packet)
        return refs

    def is_starved(self, call: SlotCall) -> bool:
        """Return True if the slot lacks processor time for this call, the first of its calls without an answer."""
        return not self.progress.may_have_begun(call.cell) or self._processor_time.is_lacking(call.number)

    def show_call(self, call_id: int) -> None:
        """Show the running call in the slot's title; 0 for no call."""
        if self._title is not None:
            self._title.set_in(self.pid, f"{self._role}, call {call_id}" if call_id else self._role)

    def retire(self) -> None:
        """Close the slot's queue. The slot ends when it has finished the calls that it has."""
        self._calls.close()

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
        self._calls.close()
        self._taken_by_slot.close()
        if self._end_timer is not None:
            self._end_timer.cancel()
        self.link.close()
        self.link.close_ring()
        self.output.close()
        self.progress.close()
        self.stack.close()
