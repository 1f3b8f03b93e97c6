"""The agent: the process of a runner that owns the link and never runs user code.

It hands calls to slots, forks slots while calls wait, enforces limits, kills calls on request, and ends when its parent
is gone. It decodes no payload. It is single-threaded, so that it may fork. This module talks with the parent.
`Dispatcher` drives the scheduler that assigns calls to slots, `ChildProcesses` manages the processes, and
`GracefulExit` ends the runner in order.
"""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module

from dragonfly_executor.protocol import handshake
from dragonfly_executor.protocol.frames import SETUP_HEAD, Flag, Frame, Kind, encode
from dragonfly_executor.protocol.versions import versions, versions_with_packages
from dragonfly_executor.runner import capacity_check, process_tree
from dragonfly_executor.runner.child_processes import ChildProcesses
from dragonfly_executor.runner.dispatch import Dispatcher
from dragonfly_executor.runner.graceful_exit import GracefulExit
from dragonfly_executor.runner.granted_cpus import slots_for
from dragonfly_executor.runner.large_calls import SLOT_BACKLOG, LargeCalls
from dragonfly_executor.runner.os_signals import OsSignals, boot_clock
from dragonfly_executor.runner.slot_handle import Slot, SlotOutput
from dragonfly_executor.runner.slot_link import split_results
from dragonfly_executor.transport.call_start_cells import map_cells
from dragonfly_executor.transport.codecs import installed
from dragonfly_executor.transport.link import Link
from dragonfly_executor.transport.loop import Loop
from dragonfly_executor.transport.payload_buffer import ChunkBuffers
from dragonfly_executor.transport.sockets import Socket
from dragonfly_executor.transport.streams import DescriptorPair
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.partner_processor import PartnerProcessor
from dragonfly_executor.util.usable_cpus import usable_cpus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    from dragonfly_executor.runner.kept_results import KeptResults
    from dragonfly_executor.runner.memory_cgroups import MemoryCgroups
    from dragonfly_executor.runner.shared_files import SharedFiles
    from dragonfly_executor.runner.sync_receiver import SyncedFiles

CHILD_CALLS = (
    "dragonfly_executor.runner.child_calls",
    "dragonfly_executor.runner.child_executor",
    "dragonfly_executor.serialization.child_codec",
)
"""The modules that slots need for calls that submit calls."""
LEASE_CHECKS = 4
"""Checks of the lease within one lease."""
# Plain module names, because an enum lookup takes longer than the comparison.
CALL, RESULT, CHUNK, IDLE, RETURNED = map(int, (Kind.CALL, Kind.RESULT, Kind.CHUNK, Kind.IDLE, Kind.RETURNED))
WAIT = int(Kind.WAIT)
LARGE, MORE = Flag.LARGE, Flag.MORE


class Agent:
    """The agent's state and its handlers, from HELLO to BYE."""

    def __init__(
        self,
        loop: Loop,
        sock: Socket | DescriptorPair,
        runner_id: str = "",
        timeout: float = 60.0,
        starters: int = 0,
    ) -> None:
        self._loop = loop
        self._starters = starters
        self._runner_id = runner_id
        buffers = ChunkBuffers()
        self._link = Link(loop, sock, self._on_frames, lambda _reason: self.exit(), handshake=True, buffers=buffers)
        self._watch = OsSignals(loop)
        self._dispatcher = Dispatcher(loop, self._link.send, self._fork_slots)
        self._graceful_exit = GracefulExit(loop, self._link, self._dispatcher, self.exit)
        self._child_processes = ChildProcesses(
            loop, self._link, self._dispatcher, self._on_slot_frames, self._on_slot_results, self._descriptors
        )
        self._child_processes.buffers = buffers
        self._link.on_drained = self._child_processes.resume
        self._large_calls = LargeCalls(self._link, self._dispatcher)
        self._dispatcher.on_no_slots = self._leave_without_slots
        self._dispatcher.on_memory_required = self._make_cgroups
        self._make_output: Callable[[], SlotOutput] = lambda: SlotOutput(self._link)
        self._lease = timeout
        self._heard = boot_clock()
        self._welcome: dict[str, Any] = {}
        """The content of the parent's WELCOME, with the log level that the parent sent last. Empty before that."""
        self._synced: SyncedFiles | None = None
        self._shared: SharedFiles | None = None
        self._kept: KeptResults | None = None
        self._may_linger = usable_cpus() > 1
        self._partner = PartnerProcessor(self._may_linger)
        self._shown = loop.time()
        self._starts_memory: int | None = None
        self._starter: int | None = None
        self._has_child_calls = False
        """True once a call has waited for calls that it has submitted."""

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Send HELLO and set up the agent.

        Raises:
            OSError: this process cannot be a runner.
        """
        # First, because the parent may send calls as soon as it has the HELLO, and a signal must not lose them.
        self._watch.signals(self._on_children, self._on_terminate)
        # A runner that the parent itself started has the parent's packages, and must start fast.
        # And on one machine, compression takes longer than the copy.
        is_local = "DRAGONFLY_PARENT_PID" in os.environ
        own, codecs = (versions(), ()) if is_local else (versions_with_packages(), installed())
        capacity_check.try_process()
        machine = self._child_processes.machine
        own.cpus = slots_for(machine.cpus)
        hello = handshake.hello(self._runner_id, own, machine.capacity, codecs)
        self._link.send(encode(Kind.HELLO, payload=hello))
        self._link.flush()
        process_tree.become_subreaper()
        if self._starts_memory is not None:
            self._child_processes.starts = map_cells(self._starts_memory)
        self._dispatcher.memory = machine.memory_watch
        # Imported here, while the parent reads the HELLO, because it loads ctypes.
        from dragonfly_executor.runner.process_title import ProcessTitle

        self._child_processes.title = ProcessTitle()
        self._child_processes.title.set("agent")
        self._watch.parent(self.exit, self._starter)
        self._check_lease()
        # Freeze the heap: a garbage collection in a slot that visits these objects copies each page of them.
        gc.freeze()
        gc.enable()

    def share_memory(self, starts: int | None = None, pipe: int = -1, rendezvous: int = -1) -> None:
        """Have slots share memory with the parent. All arguments are descriptors that the slots inherit.

        Args:
            starts: memory in which slots mark the calls that they start.
            pipe: a pipe that slots hold open while they live.
            rendezvous: the socket at which slots connect to the parent; -1 if there is none.
        """
        self._starts_memory = starts
        if rendezvous >= 0:
            self._child_processes.rendezvous = Socket(fileno=rendezvous)

    def end_with(self, starter: int) -> None:
        """End when this process ends. It has started the agent, and is not the parent."""
        self._starter = starter

    def start_heartbeat(self, send_heartbeat: Callable[[bool], None], every: float, grace: float) -> None:
        """Send a heartbeat at regular intervals, and set the grace period of a SIGTERM.

        Args:
            send_heartbeat: sends a heartbeat; its argument says whether calls were here since the last one.
            every: seconds between two heartbeats.
            grace: seconds that calls have to finish when the machine is stopped.
        """
        self._graceful_exit.grace = grace
        shown, self._shown = self._shown, self._loop.time()
        send_heartbeat(self._dispatcher.has_worked_since(shown))
        self._loop.call_later(every, lambda: self.start_heartbeat(send_heartbeat, every, grace))

    def _check_lease(self) -> None:
        if boot_clock() - self._heard > self._lease:
            self.exit()
        self._lease_timer = self._loop.call_later(self._lease / LEASE_CHECKS, self._check_lease)

    def exit(self) -> NoReturn:
        """Kill every process of this runner, remove its files, and exit."""
        self._child_processes.kill()
        for files in (self._synced, self._shared):
            if files is not None:
                files.remove()
        os._exit(0)

    def _on_terminate(self) -> None:
        self._graceful_exit.terminate(is_admitted=bool(self._welcome))

    def _leave_without_slots(self, error: OSError) -> None:
        """End, because not even one slot can be forked. Calls go back to the parent, which can use other runners."""
        sys.stderr.write(f"dragonfly runner: cannot start a single slot, so this runner exits: {error}\n")
        self._on_terminate()

    def _on_children(self) -> None:
        self._child_processes.reap(stopping=self._graceful_exit.is_stopping)
        self._graceful_exit.exit_if_done()
        self._graceful_exit.exit_if_alone()

    # -- slots --------------------------------------------------------------------------------------------------------

    def _fork_slots(self, numbers: Sequence[int], gpus: frozenset[int] | None) -> tuple[list[Slot], OSError | None]:
        place = None if self._synced is None else self._synced.place
        return self._child_processes.fork_slots(numbers, place, self._make_output, gpus)

    def _make_cgroups(self) -> MemoryCgroups | None:
        """Make the cgroups that limit the memory of calls, if this machine has such and they may be made here."""
        if sys.platform != "linux":
            return None
        # Imported only for the first call that requires memory.
        from dragonfly_executor.runner.cgroup_files import CgroupFiles
        from dragonfly_executor.runner.memory_cgroups import set_up

        return set_up(CgroupFiles(), self._starters)

    def _descriptors(self) -> list[int]:
        """Return the descriptors that only the agent may hold open."""
        fds = [*self._link.descriptors(), *self._loop.descriptors(), *self._watch.descriptors()]
        for files in (self._synced, self._shared):
            if files is not None:
                fds.extend(files.descriptors())
        return fds

    def _on_slot_frames(self, slot: Slot, frames: list[Frame]) -> None:
        # How long the calls took whose results are in these frames.
        times: list[float] = []
        # Other answers, each behind the times of the results before it.
        earlier: list[tuple[list[float], Frame]] = []
        queue = self._link.queue
        for frame in frames:
            kind, flags, _, microseconds, _, raw = frame
            if kind == RESULT:
                (slot.answer or queue)(raw)
                if not flags & LARGE:
                    times.append(microseconds * 1e-6)
                elif self._kept is not None:
                    self._kept.begin(frame)
            elif kind == CHUNK:
                self._link.send_bulk(raw if self._kept is None else self._kept.add(frame))
                if not flags & MORE:
                    times.append(0.0)
            elif kind in (IDLE, RETURNED, WAIT):
                if kind == WAIT:
                    queue(raw)
                earlier.append((times, frame))
                times = []
            else:
                self._on_slot_control(slot, frame)
        # Send the answers before the bookkeeping, because the parent waits for them.
        self._link.flush()
        for before, frame in earlier:
            if before:
                self._dispatcher.answered(slot, before)
            self._note_answer(slot, frame)
        if times:
            self._dispatcher.answered(slot, times)
        if self._link.queued_bulk > SLOT_BACKLOG:
            self._child_processes.pause(slot)
        self._dispatcher.dispatch()
        # The next call often follows the answer. While calls run here, spinning takes processor time from them.
        self._loop.expects_news = self._may_linger and self._dispatcher.is_idle
        self._graceful_exit.exit_if_done()

    def _note_answer(self, slot: Slot, frame: Frame) -> None:
        """Note an answer that is no result, after the results before it."""
        if frame.kind == RETURNED:
            self._dispatcher.declined(slot)
        elif frame.kind == Kind.WAIT:
            self._dispatcher.waits_for_children(slot, frame)
            if not self._has_child_calls:
                self._has_child_calls = True
                self._loop.call_soon(_load_child_calls)
        else:
            self._dispatcher.check_answered(slot, may_stop=bool(frame.detail))

    def _on_slot_results(self, slot: Slot, data: bytes, times: list[float]) -> None:
        """Forward small results, which come without other frames between them, as one piece."""
        if slot.answer is not None:
            # Text of the first call has gone ahead, and its result follows the end of that text.
            self._on_slot_frames(slot, split_results(data))
            return
        self._link.queue(data)
        self._link.flush()
        self._dispatcher.answered(slot, times)
        self._dispatcher.dispatch()
        if self._may_linger and self._dispatcher.is_idle:
            self._loop.expects_news = True
            # With one call at a time, the agent and the slot work in turn.
            self._partner.partner = slot.pid
            if (now := self._loop.time()) >= self._partner.due:
                self._partner.review(now)
        else:
            self._loop.expects_news = False
        self._graceful_exit.exit_if_done()

    def _on_slot_control(self, slot: Slot, frame: Frame) -> None:
        if frame.kind == Kind.OUTPUT:
            slot.output.forward(slot, frame)
        elif frame.kind == Kind.READY:
            self._child_processes.slot_is_ready(slot)
        else:
            if frame.kind == Kind.SHARED_WANT:
                self._on_shared_want(slot, frame)
                return
            if frame.kind == Kind.OBJECT_REQUEST and frame.flags & LARGE:
                self._link.send_bulk(frame.raw)
                return
            if frame.kind == Kind.PULL:
                self._large_calls.requested(frame)
            elif frame.kind == Kind.SETUP_FAILED:
                self._dispatcher.slot_is_dying(slot)
                slot.expect_end()
            self._link.send(frame.raw)

    # -- the parent ---------------------------------------------------------------------------------------------------

    def _on_frames(self, frames: list[Frame]) -> None:
        self._heard = boot_clock()
        for frame in frames:
            kind = frame.kind
            if kind == CALL:
                self._dispatcher.call_arrived(frame)
            elif kind == CHUNK:
                self._large_calls.forward(frame)
            elif kind == Kind.ITEMS:
                self._large_calls.forward_message(frame)
            else:
                self._on_control(frame)
        self._dispatcher.dispatch()
        self._loop.expects_news = self._may_linger and self._dispatcher.is_idle

    def _on_control(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.WELCOME:
                self._on_welcome(handshake.read_welcome(bytes(frame.payload)))
            case Kind.REFUSE:
                sys.stderr.write(f"dragonfly runner: refused by the parent: {bytes(frame.payload)!r}\n")
                self.exit()
            case Kind.SETUP:
                self._child_processes.setup_parts.append(bytes(frame.payload))
            case Kind.PING:
                self._link.send(encode(Kind.PONG, detail=frame.detail))
            case Kind.KILL:
                self._dispatcher.kill(frame.call_id, frame.attempt)
            case Kind.STOP:
                self._graceful_exit.stop(frame.detail / 1000)
            case Kind.DRAIN:
                self._graceful_exit.drain(frame.detail / 1000)
            case Kind.CHECK_IDLE:
                self._dispatcher.check_idle(frame)
            case Kind.OUTPUT | Kind.OBJECT_REPLY:
                self._on_frame_for(self._dispatcher.slots.get(frame.detail), frame)
            case Kind.LOG_LEVEL:
                self._welcome["log_level"] = frame.detail
                for slot in self._dispatcher.slots.values():
                    slot.progress.log_level = frame.detail
            case Kind.SYNC_BEGIN | Kind.SYNC_DATA | Kind.SYNC_END:
                self._receive_sync(frame)
            case Kind.KEEP_RESULTS:
                self._keep_results()
            case Kind.SHARED_DATA | Kind.SHARED_FORGET | Kind.KEPT_RESULT:
                self._shared_files().receive(frame)

    def _on_frame_for(self, slot: Slot | None, frame: Frame) -> None:
        if slot is None:
            return  # it has ended
        if frame.kind == Kind.OUTPUT:
            slot.output.consumed(slot, frame.call_id)
        else:
            slot.link.send(frame.raw)

    def _on_shared_want(self, slot: Slot, frame: Frame) -> None:
        try:
            files = self._shared_files()
        except (ImportError, MemoryError, OSError) as error:
            # No descriptor or memory is left for the import. Without a number, the answer is for the whole request.
            reason = f"{type(error).__name__}: {error}"
            slot.link.send(encode(Kind.SHARED_FILE, payload=reason.encode(errors="replace"), flags=Flag.ERROR))
            return
        files.wanted(slot, frame)

    def _shared_files(self) -> SharedFiles:
        if self._shared is None:
            # Imported only if a slot needs a shared object.
            from dragonfly_executor.runner.shared_files import SharedFiles
            from dragonfly_executor.transport.codecs import codecs_of

            codecs = codecs_of(SETUP_HEAD.unpack_from(b"".join(self._child_processes.setup_parts))[3])
            self._shared = SharedFiles(
                self._link.send,
                self._dispatcher,
                self._child_processes.run_helper,
                codecs,
                lambda: self._kept,
                self._loop.call_soon,
            )
        return self._shared

    def _keep_results(self) -> None:
        try:
            # Imported only if calls have the results of others as arguments.
            from dragonfly_executor.runner.kept_results import KeptResults
        except (ImportError, MemoryError, OSError):
            return  # the parent sends the bytes again
        self._kept = self._kept or KeptResults()

    def _receive_sync(self, frame: Frame) -> None:
        if self._synced is None:
            # Imported only if the runner does not see the parent's files.
            from dragonfly_executor.runner.sync_receiver import SyncedFiles

            self._synced = SyncedFiles(self._loop, self._link.send, self._dispatcher, self._child_processes.run_helper)
        self._synced.receive(frame)

    def _on_welcome(self, welcome: dict[str, Any]) -> None:
        self._link.end_handshake()
        self._welcome = welcome
        self._lease = welcome["lease"]
        self._lease_timer.cancel()
        self._check_lease()
        gpus = self._child_processes.configure(welcome)
        os.environ.update(self._child_processes.common_environment)
        self._dispatcher.configure(welcome["slots"], welcome["calls_per_slot"], welcome["setup_timeout"], gpus)
        if welcome["output"] != "inherit":
            from dragonfly_executor.runner.slot_output_forwarder import maker

            self._make_output = maker(welcome, self._loop, self._link, self._dispatcher)


def _load_child_calls() -> None:
    """Import what calls need to submit calls, so that slots which are forked from now on have it."""
    try:
        for name in CHILD_CALLS:
            import_module(name)
    except Exception as error:  # there is no memory or no descriptor for it: each slot tries for itself
        sys.stderr.write(f"dragonfly runner: cannot import what child calls need: {error}\n")


def run(
    sock: Socket | DescriptorPair,
    runner_id: str = "",
    timeout: float = 60.0,
    prepare: Callable[[Agent], None] | None = None,
    starters: int = 0,
) -> None:
    """Run an agent on this stream until the parent stops it, is gone, or does not welcome it. Does not return.

    Args:
        sock: the stream to the parent.
        runner_id: the runner's number, which HELLO repeats; "" if it is unknown.
        timeout: seconds within which the parent must send WELCOME.
        prepare: called with the agent before it starts.
        starters: number of ancestors, from this process's parent upwards, that exist for this runner alone.
    """
    process_tree.reset_signals()
    try:
        loop = Loop()
        agent = Agent(loop, sock, runner_id, timeout, starters)
        if prepare is not None:
            prepare(agent)
        agent.start()
    except OSError as error:
        capacity_check.report_failure(sock, error)
        os._exit(1)
    try:
        loop.run()
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        # A bug in the agent must not leave orphaned slots.
        agent.exit()
