"""The agent's handle of a slot: forks it, hands calls to it, takes calls back, kills it."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable

from dragonfly_executor.protocol.frames import HEADER, HEADER_SIZE, LIMITS, TOTAL, Flag, Frame, Kind
from dragonfly_executor.runner import process_tree, slot_process
from dragonfly_executor.runner.fault_traceback import FaultTraceback
from dragonfly_executor.transport.link import Link
from dragonfly_executor.transport.loop import Loop, Timer
from dragonfly_executor.transport.sockets import MSG_DONTWAIT, PACKETS, Socket, socketpair
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NoReturn

    from dragonfly_executor.runner.agent_stream import AgentStream
    from dragonfly_executor.runner.process_title import ProcessTitle
    from dragonfly_executor.runner.slot_output import SlotStreams
    from dragonfly_executor.runner.slot_progress import Progress
    from dragonfly_executor.serialization.working_directory import WorkingDirectory

EXIT_TIMEOUT = 2.0
"""Seconds that a slot without calls has for its threads, exit handlers and finalizers, before it is killed."""

CALL = int(Kind.CALL)


class Work:
    """A call on this runner, from its frame to its end."""

    __slots__ = (
        "attempt", "budget", "call_id", "ends", "frame", "missing", "owed", "reported", "run_timeout", "since", "slot",
        "timer", "unopened",
    )  # fmt: skip

    def __init__(self, frame: Frame) -> None:
        self.call_id = frame.call_id
        self.attempt = frame.attempt
        self.frame = frame
        self.slot: Slot | None = None
        self.reported = False
        self.timer: Timer | None = None
        self.budget = self.run_timeout = float("inf")
        if frame.flags & Flag.LIMITS:
            self.budget, self.run_timeout = LIMITS.unpack_from(frame.raw, HEADER_SIZE)
        self.missing = TOTAL.unpack(frame.raw[-TOTAL.size :])[0] if frame.flags & Flag.LARGE else 0
        """Bytes of a large payload that have not arrived. The call cannot start before all have."""
        self.owed = 0
        self.since = 0.0
        """The earliest time at which its slot can decode it, on the loop's clock."""
        self.ends = float("inf")
        """The time at which its budget ends."""
        self.unopened = 0
        """Milliseconds that decoding took, if the call was stopped because of that; 0 if not."""

    @property
    def is_large(self) -> bool:
        """Return True if the payload comes in chunks, on request."""
        return bool(self.frame.flags & Flag.LARGE)


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


class Slot:
    """One forked process that runs calls, and the calls that were handed to it."""

    def __init__(
        self,
        loop: Loop,
        setup: bytes,
        place: WorkingDirectory | None,
        inherited: Callable[[], list[int]],
        on_frames: Callable[[Slot, list[Frame]], None],
        output: SlotOutput,
        progress: Progress,
        title: ProcessTitle | None,
    ) -> None:
        self.output = output
        self.progress = progress
        self._role = f"slot {progress.number}"
        self._title = title
        self.shows_call = False
        """True if its title names a call."""
        self._loop = loop
        self._end_timer: Timer | None = None
        self.answer: Callable[[bytes], None] | None = None
        """Callback that sends the frame that ends a call behind the output of the call; None if there is no output."""
        made: list[Socket] = []
        self.stack = FaultTraceback()
        agent_pid = os.getpid()
        try:
            made.extend(socketpair(PACKETS))
            made.extend(socketpair())
            self.pid = os.fork()
        except OSError:
            self.stack.close()
            for sock in made:
                sock.close()
            raise
        self._calls, self._taken_by_slot, own_end, slot_end = made
        if self.pid == 0:
            self._become_slot(inherited, own_end, slot_end, setup, place, agent_pid)
        slot_end.close()
        self.stack.keep_reader()
        self.link = Link(loop, own_end, lambda frames: on_frames(self, frames), lambda reason: None)
        self.in_flight: deque[Work] = deque()
        """Calls that were handed over and not answered, oldest first. The first one is running."""
        self.since = loop.time()
        """The time at which the first of them became the first, on the loop's clock."""
        self.ready = False
        self.stuck = False
        self.handed = 0
        self.is_checking = False
        """True if the slot runs the user's idle check, or is about to."""
        self.kill_reason: int | None = None
        self.timer: Timer | None = None
        output.slot_is_forked(self)

    def _become_slot(
        self,
        inherited: Callable[[], list[int]],
        own_end: Socket,
        slot_end: Socket,
        setup: bytes,
        place: WorkingDirectory | None,
        agent: int,
    ) -> NoReturn:
        """Close the agent's descriptors in the forked child, then run calls. Never return to the agent's code."""
        try:
            for fd in (*inherited(), self._calls.fileno(), own_end.fileno()):
                os.close(fd)
            self.stack.record()
            if self._title is not None:
                self._title.set(self._role)
            slot_process.main(self._taken_by_slot, slot_end, setup, place, agent, self.output.take_over, self.progress)
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            os._exit(1)

    def descriptors(self) -> list[int]:
        """Return the descriptors that another slot must not keep open."""
        # A slot that closed its end lives on. Then the link is closed here, and its number may be another file's.
        link = -1 if self.link.closed else self.link.fileno()
        own = (self._calls.fileno(), self._taken_by_slot.fileno(), link)
        fds = (*own, *self.stack.descriptors(), *self.output.descriptors())
        return [fd for fd in fds if fd >= 0]

    def hand(self, work: Work) -> bool:
        """Put a call into the slot's queue. Return False if the queue is full or the slot is dying."""
        try:
            self._calls.send(work.frame.raw, MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            # The slot is dying: the end of its process is reported separately.
            return False
        work.slot = self
        self.in_flight.append(work)
        if work.frame.kind == CALL:
            self.handed += 1
        else:
            self.is_checking = True
        return True

    def take_back(self) -> list[Work]:
        """Take back the calls that the slot has not taken, in order. They have provably never started."""
        packets: set[tuple[int, int]] = set()
        while len(packets) < len(self.in_flight):
            try:
                packet = self._taken_by_slot.recv(HEADER_SIZE, MSG_DONTWAIT)
            except (BlockingIOError, InterruptedError):
                break
            if not packet:
                break
            _, _, attempt, _, call_id, _ = HEADER.unpack(packet)
            packets.add((call_id, attempt))
        if not packets:
            return []
        # Match by id, not by count: while this side reads, the slot may take a packet in between.
        taken = [work for work in self.in_flight if (work.call_id, work.attempt) in packets]
        self.in_flight = deque(work for work in self.in_flight if (work.call_id, work.attempt) not in packets)
        for work in taken:
            work.slot = None
        self.handed -= sum(work.frame.kind == CALL for work in taken)
        self.is_checking = any(work.frame.kind != CALL for work in self.in_flight)
        return taken

    def show_call(self, call_id: int) -> None:
        """Show the running call in the slot's title; 0 for no call."""
        if self._title is not None:
            self._title.set_in(self.pid, f"{self._role}, call {call_id}" if call_id else self._role)
            self.shows_call = bool(call_id)

    def retire(self) -> None:
        """Hand no more calls to the slot. It ends when it has finished the calls that it has."""
        self._calls.close()
        if not self.in_flight:
            self.expect_end()

    def expect_end(self) -> None:
        """Kill the slot after `EXIT_TIMEOUT` seconds: it has no call left and is running its exit handlers."""
        if self._end_timer is None:
            self._end_timer = self._loop.call_later(EXIT_TIMEOUT, self.kill)

    @property
    def is_ending(self) -> bool:
        """Return True if the slot is ending, with a timer that kills it if that takes too long."""
        return self._end_timer is not None

    @property
    def is_idle(self) -> bool:
        """Return True if the slot can start a call now."""
        return self.ready and not (self.in_flight or self.retired or self.kill_reason)

    @property
    def retired(self) -> bool:
        """Return True if the slot gets no more calls."""
        return self._calls.fileno() < 0

    def kill(self) -> None:
        """Send SIGKILL to the slot and to every process that its calls started."""
        process_tree.kill_tree(self.pid)

    def close(self) -> None:
        """Close the descriptors, and cancel the timer."""
        self._calls.close()
        self._taken_by_slot.close()
        if self._end_timer is not None:
            self._end_timer.cancel()
        self.link.close()
        self.output.close()
        self.progress.close()
        self.stack.close()
