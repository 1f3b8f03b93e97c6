"""The agent: the process of a runner that owns the link and never runs user code.

It hands calls to slots, forks slots while calls wait, enforces limits, kills what it is told to kill, and goes when its
parent is gone. It opens no payload. It is single-threaded, so that it may fork. Here is its talk with the parent: which
slot gets which call is the dispatcher's matter, the processes themselves are the household's.
"""

from __future__ import annotations

import gc
import os
import sys

from dragonfly_executor.protocol import handshake
from dragonfly_executor.protocol.frames import HEADER_SIZE, Flag, Frame, Kind, encode
from dragonfly_executor.protocol.stdlib_json import json
from dragonfly_executor.protocol.versions import usable_cpus, versions, versions_with_packages
from dragonfly_executor.runner import capacity_check, process_tree
from dragonfly_executor.runner.child_processes import Household
from dragonfly_executor.runner.dispatch import Dispatcher
from dragonfly_executor.runner.oom_kills import MemoryWatch
from dragonfly_executor.runner.os_signals import Watch, boot_clock
from dragonfly_executor.runner.slot_handle import EXIT_PATIENCE, Slot, SlotOutput, Work
from dragonfly_executor.serialization.buffer_cache import read_answer
from dragonfly_executor.transport.call_start_cells import map_cells
from dragonfly_executor.transport.link import Link
from dragonfly_executor.transport.loop import Loop, Timer
from dragonfly_executor.transport.sockets import Socket
from dragonfly_executor.transport.streams import DescriptorPair

# A runner imports this, and importing typing would take as long as all the rest. Type checkers take the name for true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from dragonfly_executor.runner.sync_receiver import Synced

LEASE_CHECKS = 4
"""How often within a lease the agent looks whether it still holds it."""
GRACE = 25.0
"""Seconds that calls have to finish when somebody sends a SIGTERM: most who do so kill after half a minute."""
UNKNOWN_GRACE = 1.0
"""Seconds that the parent then has to take note, where it has yet to let the runner in."""
LEAVE_SLACK = 0.5
"""Seconds until the agent goes once its last slots must have ended."""
SLOT_BACKLOG = 4 * 1024 * 1024
"""Bytes that may wait for a slot before the parent is asked for less, and for the parent before a slot is read less."""
# As plain module names: looking a member up in its enum takes longer than comparing with it.
CALL, RESULT, CHUNK, IDLE = int(Kind.CALL), int(Kind.RESULT), int(Kind.CHUNK), int(Kind.IDLE)
RETURNED = int(Kind.RETURNED)
LARGE, MORE = Flag.LARGE, Flag.MORE


class Agent:
    """Everything that happens on a runner, from HELLO to BYE."""

    def __init__(self, loop: Loop, sock: Socket | DescriptorPair, runner_id: str = "", patience: float = 60.0) -> None:
        self._loop = loop
        self._runner_id = runner_id
        self._link = Link(loop, sock, self._on_frames, lambda _reason: self.exit(), handshake=True)
        self._watch = Watch(loop)
        self._dispatcher = Dispatcher(loop, self._link.send, self._fork_slot)
        self._household = Household(loop, self._link, self._dispatcher, self._on_slot_frames, self._descriptors)
        self._link.on_drained = self._household.resume
        self._dispatcher.lineup.on_none = self._leave_without_slots
        self._make_output: Callable[[], SlotOutput] = lambda: SlotOutput(self._link)
        self._lease = patience
        self._heard = boot_clock()
        self._stop_timer: Timer | None = None
        self._stopping = False
        self._welcomed = False
        self._session: dict[str, Any] = {}
        """What the parent's WELCOME said."""
        self._synced: Synced | None = None
        self._may_linger = usable_cpus() > 1
        self._grace = GRACE
        self._leaving = False
        self._shown = loop.time()
        self._starts_memory: int | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Say hello; the rest follows from what the parent answers. OSError if this cannot be a runner."""
        # First: as soon as the parent has heard of this one it may send calls, and a signal must not lose them.
        self._watch.signals(self._on_children, self._on_terminate)
        # What the parent itself has started has the parent's own packages, and no time to lose.
        own = versions() if "DRAGONFLY_PARENT_PID" in os.environ else versions_with_packages()
        capacity_check.try_process()
        self._link.send(encode(Kind.HELLO, payload=handshake.hello(self._runner_id, own)))
        self._link.flush()
        process_tree.become_subreaper()
        if self._starts_memory is not None:
            self._household.starts = map_cells(self._starts_memory)
        self._dispatcher.memory = MemoryWatch()
        # It loads ctypes, as `become_subreaper` does: while the parent reads what it was told.
        from dragonfly_executor.runner.process_title import Title

        self._household.title = Title()
        self._household.title.set("agent")
        self._watch.parent(self.exit)
        self._check_lease()
        # What is here stays. A collection in a slot that looked at it would copy each page of it.
        gc.freeze()
        gc.enable()

    def note_starts(self, memory: int | None) -> None:
        """Have slots mark the calls that they begin in this memory, which is a descriptor."""
        self._starts_memory = memory

    def be_watched(self, show_life: Callable[[bool], None], every: float, grace: float) -> None:
        """Give a sign of life every so often, which says whether calls were here since the last one; and when its
        machine is stopped, let calls finish for `grace` seconds.
        """
        self._grace = grace
        shown, self._shown = self._shown, self._loop.time()
        show_life(self._dispatcher.has_worked_since(shown))
        self._loop.call_later(every, lambda: self.be_watched(show_life, every, grace))

    def _check_lease(self) -> None:
        if boot_clock() - self._heard > self._lease:
            self.exit()
        self._lease_timer = self._loop.call_later(self._lease / LEASE_CHECKS, self._check_lease)

    def exit(self) -> NoReturn:
        """Kill everything that runs here, and go."""
        self._household.kill()
        if self._synced is not None:
            self._synced.remove()
        os._exit(0)

    def _stop(self, grace: float) -> None:
        """Go: when all calls have ended, or at the latest after `grace` seconds."""
        self._stopping = True
        self._end_in(grace)
        self._end_if_done()

    def _on_terminate(self) -> None:
        """Somebody wants it to go. The parent may be sending calls at this moment, so it has to say when none come.

        That holds before it has let the runner in, too: it may just have done so.
        """
        if self._leaving:
            return
        self._leaving = True
        self._end_in(self._grace if self._welcomed else min(self._grace, UNKNOWN_GRACE))
        self._link.send(encode(Kind.STOP))
        self._dispatcher.close()

    def _leave_without_slots(self, error: OSError) -> None:
        """Not even one can be had: what has come goes back, and other runners are of more use than this one."""
        sys.stderr.write(f"dragonfly runner: no room for a single slot, so this runner goes: {error}\n")
        self._on_terminate()

    def _end_in(self, grace: float) -> None:
        """End in so many seconds at the latest. Of several who say so, the one counts who waits the least."""
        when = self._loop.time() + grace
        if self._stop_timer is None or when < self._stop_timer.when:
            if self._stop_timer is not None:
                self._stop_timer.cancel()
            self._stop_timer = self._loop.call_at(when, self._say_bye)

    def _end_if_done(self) -> None:
        if self._stopping and self._dispatcher.is_idle:
            self._say_bye()

    def _say_bye(self) -> None:
        """End every slot, those that are done by themselves, then go."""
        self._stopping = True
        for slot in list(self._dispatcher.slots.values()):
            if slot.in_flight and not slot.is_ending:
                self._dispatcher.stopped_after = self._grace if self._leaving else None
                slot.kill()
            else:
                slot.retire()
        self._loop.call_later(EXIT_PATIENCE + LEAVE_SLACK, self._leave)
        self._leave_if_alone()

    def _leave_if_alone(self) -> None:
        if self._stopping and not self._dispatcher.slots and self._dispatcher.is_idle:
            self._leave()

    def _leave(self) -> None:
        self._link.send(encode(Kind.BYE))
        self._link.flush()
        self.exit()

    def _on_children(self) -> None:
        self._household.reap(stopping=self._stopping)
        self._end_if_done()
        self._leave_if_alone()

    # -- slots --------------------------------------------------------------------------------------------------------

    def _fork_slot(self) -> Slot:
        place = None if self._synced is None else self._synced.place
        return self._household.fork_slot(place, self._make_output())

    def _descriptors(self) -> list[int]:
        """What only the agent may hold open."""
        fds = [*self._link.descriptors(), *self._loop.descriptors(), *self._watch.descriptors()]
        if self._synced is not None:
            fds.extend(self._synced.descriptors())
        return fds

    def _on_slot_frames(self, slot: Slot, frames: list[Frame]) -> None:
        answers = []
        queue = self._link.queue
        for frame in frames:
            kind, flags, raw = frame.kind, frame.flags, frame.raw
            if kind == RESULT:
                (slot.answer or queue)(raw)
                if not flags & LARGE:
                    answers.append(frame)
            elif kind == CHUNK:
                self._link.send_bulk(raw)
                if not flags & MORE:
                    answers.append(frame)
            elif kind in (IDLE, RETURNED):
                answers.append(frame)
            else:
                self._on_slot_control(slot, frame)
        # First what others wait for, then the books.
        self._link.flush()
        for frame in answers:
            self._dispatcher.answered(slot, frame)
        if self._link.queued_bulk > SLOT_BACKLOG:
            self._household.pause(slot)
        self._dispatcher.dispatch()
        # The next call often follows the answer. While calls run here the processors are theirs.
        self._loop.expects_news = self._may_linger and self._dispatcher.is_idle
        if self._stopping:
            self._end_if_done()

    def _on_slot_control(self, slot: Slot, frame: Frame) -> None:
        if frame.kind == Kind.OUTPUT:
            slot.output.forward(slot, frame)
            return
        if frame.kind == Kind.READY:
            self._household.slot_is_ready(slot)
            return
        if frame.kind == Kind.PULL and len(frame.payload):
            work = self._dispatcher.works.get((frame.call_id, frame.attempt))
            if work is not None:
                work.missing -= read_answer(frame.payload)[0]
        if frame.kind == Kind.SETUP_FAILED:
            slot.kill_reason = Kind.SETUP_FAILED
            slot.expect_end()
        self._link.send(frame.raw)

    # -- the parent ---------------------------------------------------------------------------------------------------

    def _on_frames(self, frames: list[Frame]) -> None:
        self._heard = boot_clock()
        for frame in frames:
            kind = frame.kind
            if kind == CALL:
                self._dispatcher.arriving.append(Work(frame))
            elif kind == CHUNK:
                self._forward_chunk(frame)
            else:
                self._on_control(frame)
        self._dispatcher.dispatch()
        self._loop.expects_news = self._may_linger and self._dispatcher.is_idle

    def _on_control(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.WELCOME:
                self._on_welcome(json.loads(bytes(frame.payload)))
            case Kind.REFUSE:
                sys.stderr.write(f"dragonfly runner: refused by the parent: {bytes(frame.payload)!r}\n")
                self.exit()
            case Kind.SETUP:
                self._household.setup_parts.append(bytes(frame.payload))
            case Kind.PING:
                self._link.send(encode(Kind.PONG, detail=frame.detail))
            case Kind.KILL:
                self._dispatcher.kill(frame.call_id, frame.attempt)
            case Kind.STOP:
                self._stop(frame.detail / 1000)
            case Kind.CHECK_IDLE:
                self._dispatcher.check_idle(Work(frame))
            case Kind.OUTPUT:
                slot = self._dispatcher.slots.get(frame.detail)
                if slot is not None:
                    slot.output.consumed(slot, frame.call_id)
            case Kind.LOG_LEVEL:
                self._session["log_level"] = frame.detail
                for slot in self._dispatcher.slots.values():
                    slot.progress.log_level = frame.detail
            case Kind.SYNC_BEGIN | Kind.SYNC_DATA | Kind.SYNC_END:
                self._receive_sync(frame)

    def _receive_sync(self, frame: Frame) -> None:
        if self._synced is None:
            # Only where the runner does not see the parent's files.
            from dragonfly_executor.runner.sync_receiver import Synced

            self._synced = Synced(self._loop, self._link.send, self._dispatcher, self._household.run_helper)
        self._synced.receive(frame)

    def _on_welcome(self, session: dict[str, Any]) -> None:
        self._link.end_handshake()
        self._welcomed = True
        self._session = session
        self._lease = session["lease"]
        self._lease_timer.cancel()
        self._check_lease()
        self._household.setup_timeout = self._dispatcher.limits.opening = session["setup_timeout"]
        self._dispatcher.lineup.max_slots = session["slots"]
        self._dispatcher.max_calls_per_slot = session["calls_per_slot"]
        if session["output"] != "inherit":
            from dragonfly_executor.runner.slot_output_forwarder import maker

            self._make_output = maker(session, self._loop, self._link, self._dispatcher)

    def _forward_chunk(self, frame: Frame) -> None:
        work = self._dispatcher.works.get((frame.call_id, frame.attempt))
        if work is None or work.slot is None:
            return
        slot = work.slot
        work.missing -= len(frame.raw) - HEADER_SIZE
        work.since = self._loop.time()
        slot.link.send_bulk(frame.raw)
        work.owed += 1
        self._pull_more(work)

    def _pull_more(self, work: Work) -> None:
        slot = work.slot
        if slot is None or not work.owed or work.missing <= 0:
            return
        if slot.link.queued_bulk > SLOT_BACKLOG:
            slot.link.on_drained = lambda: self._pull_more(work)
            return
        self._link.send(encode(Kind.PULL, work.call_id, attempt=work.attempt, detail=work.owed))
        work.owed = 0


def run(
    sock: Socket | DescriptorPair,
    runner_id: str = "",
    patience: float = 60.0,
    prepare: Callable[[Agent], None] | None = None,
) -> None:
    """Be an agent on this stream until the parent says stop or is gone, or does not welcome it within `patience`
    seconds. Does not return. Whoever watches it gets it first.
    """
    process_tree.reset_signals()
    try:
        loop = Loop()
        agent = Agent(loop, sock, runner_id, patience)
        if prepare is not None:
            prepare(agent)
        agent.start()
    except OSError as error:
        capacity_check.say_why_not(sock, error)
        os._exit(1)
    try:
        loop.run()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        # A bug in the agent must not leave slots behind either.
        agent.exit()
