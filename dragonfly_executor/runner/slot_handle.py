"""The agent's side of a slot: fork it, hand it calls, take them back, kill it."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable

from dragonfly_executor.protocol.frames import HEADER, HEADER_SIZE, LIMITS, TOTAL, Flag, Frame, Kind
from dragonfly_executor.runner import process_tree, slot_process
from dragonfly_executor.runner.fault_traceback import LastStack
from dragonfly_executor.transport.link import Link
from dragonfly_executor.transport.loop import Loop, Timer
from dragonfly_executor.transport.sockets import MSG_DONTWAIT, PACKETS, Socket, socketpair

# A runner imports this, and importing typing would take as long as all the rest. Type checkers take the name for true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from dragonfly_executor.runner.process_title import Title
    from dragonfly_executor.runner.slot_output import OwnOutput
    from dragonfly_executor.runner.slot_progress import Progress
    from dragonfly_executor.serialization.working_directory import Place

EXIT_PATIENCE = 2.0
"""Seconds that a slot without calls has for its threads, exit handlers and finalizers, until it is killed."""

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
        """Bytes of a large payload that have not come yet: until they have, the call cannot start."""
        self.owed = 0
        self.since = 0.0
        """When its slot could begin to open it, as far as is known."""
        self.ends = float("inf")
        """When its budget ends."""
        self.unopened = 0
        """Milliseconds for which it was being opened, if that was too long."""

    @property
    def is_large(self) -> bool:
        """Whether its payload comes in chunks, when asked for."""
        return bool(self.frame.flags & Flag.LARGE)


class SlotOutput:
    """What becomes of what a slot writes: nothing here, it goes where the agent's own output does.

    See `slot_output_forwarder`.
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    def take_over(self, results: Socket) -> OwnOutput | None:
        """In the forked slot: what reads what its calls write; None if nothing does."""
        return None

    def slot_is_forked(self, slot: Slot) -> None:
        """The agent's part begins."""

    def slot_is_ready(self, slot: Slot) -> None:
        """What it writes from now on is its calls'."""

    def forward(self, slot: Slot, frame: Frame) -> None:
        """The slot has read something itself."""

    def consumed(self, slot: Slot, amount: int) -> None:
        """The parent has room again for so much."""

    def slot_has_ended(self, slot: Slot) -> None:
        """Take what it has left."""

    def last_words(self) -> str:
        """The end of what the call that runs wrote to stderr, as far as that is known."""
        return ""

    def send(self, frame: bytes) -> None:
        """Tell the parent something behind all that the slot wrote."""
        self._link.send(frame)

    def descriptors(self) -> list[int]:
        """What another slot must not inherit."""
        return []

    def close(self) -> None:
        """Let go of its descriptors."""


class Slot:
    """One forked process that runs calls, with the calls it was handed."""

    def __init__(
        self,
        loop: Loop,
        setup: bytes,
        place: Place | None,
        inherited: Callable[[], list[int]],
        on_frames: Callable[[Slot, list[Frame]], None],
        output: SlotOutput,
        progress: Progress,
        title: Title | None,
    ) -> None:
        self.output = output
        self.progress = progress
        self._role = f"slot {progress.number}"
        self._title = title
        self.shows_call = False
        """Whether its title names a call."""
        self._loop = loop
        self._end_timer: Timer | None = None
        self.answer: Callable[[bytes], None] | None = None
        """Tells the parent how the call ended that runs, behind what it wrote; None where it wrote nothing."""
        made: list[Socket] = []
        self.stack = LastStack()
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
        """Calls handed over and not answered, oldest first: the first one is running."""
        self.since = loop.time()
        """When the first of them became the first."""
        self.ready = False
        self.stuck = False
        self.handed = 0
        self.is_checking = False
        """Whether it runs the user's idle check, or is about to."""
        self.kill_reason: int | None = None
        self.timer: Timer | None = None
        output.slot_is_forked(self)

    def _become_slot(
        self,
        inherited: Callable[[], list[int]],
        own_end: Socket,
        slot_end: Socket,
        setup: bytes,
        place: Place | None,
        agent: int,
    ) -> NoReturn:
        """In the forked child: let go of what is the agent's, and run calls. Nothing of the agent may go on here."""
        try:
            for fd in (*inherited(), self._calls.fileno(), own_end.fileno()):
                os.close(fd)
            self.stack.record()
            if self._title is not None:
                self._title.set(self._role)
            slot_process.main(self._taken_by_slot, slot_end, setup, place, agent, self.output.take_over, self.progress)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)

    def descriptors(self) -> list[int]:
        """What another slot must not keep open."""
        # A slot that has closed its end lives on; this side's number may be another's by now.
        link = -1 if self.link.closed else self.link.fileno()
        own = (self._calls.fileno(), self._taken_by_slot.fileno(), link)
        fds = (*own, *self.stack.descriptors(), *self.output.descriptors())
        return [fd for fd in fds if fd >= 0]

    def hand(self, work: Work) -> bool:
        """Put a call into the slot's queue; False where the queue is full."""
        try:
            self._calls.send(work.frame.raw, MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            # It is dying: the end of its process says how.
            return False
        work.slot = self
        self.in_flight.append(work)
        if work.frame.kind == CALL:
            self.handed += 1
        else:
            self.is_checking = True
        return True

    def take_back(self) -> list[Work]:
        """The calls that the slot has not taken, in order: they have provably never started."""
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
        # By name, not by count: while this side reads, the slot may take one from between.
        taken = [work for work in self.in_flight if (work.call_id, work.attempt) in packets]
        self.in_flight = deque(work for work in self.in_flight if (work.call_id, work.attempt) not in packets)
        for work in taken:
            work.slot = None
        self.handed -= sum(work.frame.kind == CALL for work in taken)
        self.is_checking = any(work.frame.kind != CALL for work in self.in_flight)
        return taken

    def show_call(self, call_id: int) -> None:
        """Name the call that it runs in its title; 0 for none."""
        if self._title is not None:
            self._title.set_in(self.pid, f"{self._role}, call {call_id}" if call_id else self._role)
            self.shows_call = bool(call_id)

    def retire(self) -> None:
        """Hand it no more: it ends when it has finished what it has."""
        self._calls.close()
        if not self.in_flight:
            self.expect_end()

    def expect_end(self) -> None:
        """Kill the slot if it has not ended soon: it has no call left, and runs what is to run at its exit."""
        if self._end_timer is None:
            self._end_timer = self._loop.call_later(EXIT_PATIENCE, self.kill)

    @property
    def is_ending(self) -> bool:
        """Whether it ends by itself, and is killed if that takes too long."""
        return self._end_timer is not None

    @property
    def is_idle(self) -> bool:
        """Whether it could start a call now."""
        return self.ready and not (self.in_flight or self.retired or self.kill_reason)

    @property
    def retired(self) -> bool:
        """Whether it gets no more calls."""
        return self._calls.fileno() < 0

    def kill(self) -> None:
        """SIGKILL the slot and everything that its calls started."""
        process_tree.kill_tree(self.pid)

    def close(self) -> None:
        """Let go of its descriptors."""
        self._calls.close()
        self._taken_by_slot.close()
        if self._end_timer is not None:
            self._end_timer.cancel()
        self.link.close()
        self.output.close()
        self.progress.close()
        self.stack.close()
