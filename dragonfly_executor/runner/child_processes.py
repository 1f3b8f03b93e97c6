"""An agent's child processes: slots, helpers, and leftovers of slots that ended.

This module forks, reaps and kills them, and interprets how they ended. The dispatcher assigns calls to slots.
"""

from __future__ import annotations

import os
import sys

from dragonfly_executor.protocol.frames import SETUP_HEAD, Kind, ScriptImport, encode
from dragonfly_executor.runner import common_imports, process_tree, slot_crash
from dragonfly_executor.runner import slot_process as slot_main
from dragonfly_executor.runner import slot_progress as phases
from dragonfly_executor.runner.machine import RunnerMachine
from dragonfly_executor.runner.new_slot import NewSlot, fork_all
from dragonfly_executor.runner.private_descriptors import PrivateDescriptors
from dragonfly_executor.runner.slot_environment import SlotEnvironment
from dragonfly_executor.runner.slot_handle import Slot, SlotOutput
from dragonfly_executor.runner.slot_progress import Progress
from dragonfly_executor.runner.slot_template import SlotTemplates
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, NoReturn

    from dragonfly_executor.protocol.frames import Frame
    from dragonfly_executor.runner.dispatch import Dispatcher
    from dragonfly_executor.runner.process_title import ProcessTitle
    from dragonfly_executor.serialization.working_directory import WorkingDirectory
    from dragonfly_executor.transport.call_start_cells import Cells
    from dragonfly_executor.transport.link import Link
    from dragonfly_executor.transport.loop import Loop
    from dragonfly_executor.transport.payload_buffer import ChunkBuffers
    from dragonfly_executor.transport.sockets import Socket

MAX_SETUP_CRASHES = 3
"""Slots in a row that may die before they are ready. After that the setup itself counts as the reason."""


class ChildProcesses:
    """The processes below an agent, from fork to end.

    Args:
        loop: the agent's event loop.
        link: the link to the parent, for reports about slots and setup failures.
        dispatcher: the table of living slots; it is notified when a slot is ready or has ended.
        on_frames: called with a slot and the frames that it sent.
        on_results: called with a slot, RESULT frames that it wrote, and how long these calls took in seconds.
        descriptors: returns the file descriptors that the agent's children must not keep open.
    """

    def __init__(
        self,
        loop: Loop,
        link: Link,
        dispatcher: Dispatcher,
        on_frames: Callable[[Slot, list[Frame]], None],
        on_results: Callable[[Slot, bytes, list[float]], None],
        descriptors: Callable[[], list[int]],
    ) -> None:
        self._loop = loop
        self._link = link
        self._dispatcher = dispatcher
        self._on_frames = on_frames
        self._on_results = on_results
        self._agents_descriptors = descriptors
        self._private = PrivateDescriptors()
        self._templates = SlotTemplates()
        self.setup_timeout = 30.0
        """Seconds after its fork within which a slot must be ready."""
        self.setup_parts: list[bytes] = []
        """The parts of the parent's SETUP, which each slot starts with."""
        self.machine = RunnerMachine()
        self._environment: SlotEnvironment | None = None
        """The environment variables that slots set; None before WELCOME."""
        self.starts: Cells | None = None
        """Shared memory in which slots mark the calls that they start, by the number that the call brings."""
        self.rendezvous: Socket | None = None
        """The socket at which slots connect to share memory with the parent."""
        self.buffers: ChunkBuffers | None = None
        """The buffers of chunks that are forwarded."""
        self._script: int | None = None
        """The `ScriptImport` mode of slots forked from now on; None to use the parent's."""
        self.title: ProcessTitle | None = None
        """The writer of the title that ``ps`` shows."""
        self._has_forked = False
        self._setup_crashes = 0
        self._paused: list[Slot] = []
        self._helpers: dict[int, Callable[[int], None]] = {}
        """Children that are not slots: process id to the callback for the wait status."""

    # -- slots --------------------------------------------------------------------------------------------------------

    def configure(self, welcome: dict[str, Any]) -> int:
        """Apply the parent's WELCOME. Return the number of GPUs that can be given to calls."""
        self.setup_timeout = welcome["setup_timeout"]
        self._environment = SlotEnvironment(
            os.environ,
            self.machine,
            welcome["slots"],
            limits_threads=welcome["limit_threads"],
            divides_gpus=welcome["divide_gpus"],
        )
        return self._environment.divided_gpus

    @property
    def common_environment(self) -> dict[str, str]:
        """Return the variables that all slots have, and inherit from the agent."""
        return {} if self._environment is None else self._environment.common

    def fork_slots(
        self,
        numbers: Iterable[int],
        place: WorkingDirectory | None,
        make_output: Callable[[], SlotOutput],
        gpus: frozenset[int] | None = None,
    ) -> tuple[list[Slot], OSError | None]:
        """Fork slots, and tell the parent, until one cannot be forked.

        Args:
            numbers: their numbers.
            place: where they start if they do not see the parent's files; None if they do.
            make_output: makes the output of one.
            gpus: the numbers of the GPUs of each; None for its usual share.

        Returns:
            The slots, and the error of the first that could not be forked; None if all were.
        """
        made: list[tuple[NewSlot, SlotOutput]] = []
        error: OSError | None = None
        for number in numbers:
            try:
                made.append(self._make(number, make_output(), gpus))
            except OSError as reason:
                error = reason
                break
        if self._has_forked or len(made) > 1:
            common_imports.load()
        self._has_forked = True
        setup, agent_pid, agents = self._setup(), os.getpid(), self._agents_descriptors()
        template = self._templates.get(setup, place)

        def run(new: NewSlot) -> NoReturn:
            self._private.add(agents)
            new.run(
                self._private,
                setup=setup,
                place=place,
                template=template,
                rendezvous=self.rendezvous,
                agent_pid=agent_pid,
            )

        pids, failure = fork_all([new for new, _ in made], run)
        for new, _ in made[len(pids) :]:
            self._private.discard(new.descriptors())
            new.close()
        slots = [self._forked(new, pid, output, gpus) for (new, output), pid in zip(made, pids, strict=False)]
        return slots, failure or error

    def _make(self, number: int, output: SlotOutput, gpus: frozenset[int] | None) -> tuple[NewSlot, SlotOutput]:
        """Make all that a slot needs before its fork."""
        environment = {} if self._environment is None else self._environment.of(number, gpus)
        try:
            progress = Progress(number, self.starts)
            new = NewSlot(progress, output=output, title=self.title, environment=environment)
        except OSError:
            output.close()
            raise
        self._private.add(new.descriptors())
        return new, output

    def _forked(self, new: NewSlot, pid: int, output: SlotOutput, gpus: frozenset[int] | None) -> Slot:
        slot = Slot(
            self._loop,
            new,
            pid,
            output=output,
            private=self._private,
            on_frames=self._on_frames,
            on_results=self._on_results,
            gpus=gpus,
            buffers=self.buffers,
        )
        slot.timer = self._loop.call_later(self.setup_timeout, lambda: self._setup_is_late(slot))
        self._link.send(encode(Kind.SLOT_UP, detail=pid))
        return slot

    def _setup(self) -> bytes:
        setup = b"".join(self.setup_parts)
        if self._script is None:
            return setup
        max_payload, size, _, codecs = SETUP_HEAD.unpack_from(setup)
        return SETUP_HEAD.pack(max_payload, size, self._script, codecs) + setup[SETUP_HEAD.size :]

    def slot_is_ready(self, slot: Slot) -> None:
        """Record that the slot is set up. From now on it runs calls."""
        self._setup_crashes = 0
        slot.output.slot_is_ready(slot)
        if slot.timer is not None:
            slot.timer.cancel()
        self._dispatcher.slot_is_ready(slot)

    def _setup_is_late(self, slot: Slot) -> None:
        if slot.record.is_ready or slot.pid not in self._dispatcher.slots:
            return
        if slot.progress.phase == phases.IMPORTING_SCRIPT:
            # Only calls that need the script are affected. The others run in the next slot.
            self._script = ScriptImport.LATE
            self._dispatcher.slot_is_dying(slot)
            slot.kill()
            return
        slot.kill()
        self._report_setup_failure(f"the initializer did not finish within {self.setup_timeout:g} s")

    def _report_setup_failure(self, text: str) -> None:
        self._link.send(encode(Kind.SETUP_FAILED, payload=text.encode()))

    @property
    def _has_initializer(self) -> bool:
        setup = b"".join(self.setup_parts)
        codec_size: int = SETUP_HEAD.unpack_from(setup)[1]
        return len(setup) > SETUP_HEAD.size + codec_size

    def pause(self, slot: Slot) -> None:
        """Stop reading from the slot until `resume`."""
        slot.link.pause()
        self._paused.append(slot)

    def resume(self) -> None:
        """Resume reading from every paused slot."""
        for slot in self._paused:
            slot.link.resume()
        self._paused.clear()

    # -- helpers ------------------------------------------------------------------------------------------------------

    def run_helper(self, job: Callable[[], int], on_end: Callable[[int], None]) -> None:
        """Run a blocking job in a forked child, and call `on_end` with its wait status."""
        agent_pid = os.getpid()
        pid = os.fork()
        if pid:
            self._helpers[pid] = on_end
            return
        status = 1
        try:
            slot_main.become_session_leader(agent_pid)
            # Above all, only the agent may hold the link.
            self._private.add(self._agents_descriptors())
            self._private.close()
            status = job()
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            os._exit(status)

    # -- the end ------------------------------------------------------------------------------------------------------

    def reap(self, *, stopping: bool) -> None:
        """Reap the children that have ended. `stopping` says that slots are expected to end."""
        ended: list[int] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            slot = self._dispatcher.slots.get(pid)
            if slot is not None:
                self._slot_ended(slot, status, stopping=stopping)
                ended.append(pid)
            elif pid in self._helpers:
                self._helpers.pop(pid)(status)
        self._kill_leftovers()
        groups = self._dispatcher.memory_groups
        if groups is not None:
            for pid in ended:
                groups.slot_ended(pid)

    def _slot_ended(self, slot: Slot, status: int, *, stopping: bool) -> None:
        process_tree.kill_group(slot.pid)
        # All of it, even of a paused link: the slot writes no more.
        slot.link.drain_until(lambda: False)
        slot.output.slot_has_ended(slot)
        if slot.timer is not None:
            slot.timer.cancel()
        crashed = not slot.record.is_ready and not slot.record.is_dying and not stopping
        if crashed and slot.progress.phase == phases.IMPORTING_SCRIPT:
            # The next slots skip the import in their setup, so that only a call that needs the script can die of it.
            self._script = ScriptImport.SKIP
            crashed = False
        if crashed and self._has_initializer:
            self._setup_crashes += 1
            if self._setup_crashes >= MAX_SETUP_CRASHES:
                last = slot_crash.told(slot, status)
                self._report_setup_failure(f"{self._setup_crashes} slots in a row died before they were ready; {last}")
        # Without an initializer the crash does not predict the next slot's setup, so the first call is reported as
        # lost.
        self._dispatcher.slot_ended(slot, status, tell=crashed and not self._has_initializer)
        if slot in self._paused:
            self._paused.remove(slot)
        slot.close()
        slot.output.send(encode(Kind.SLOT_DOWN, detail=slot.pid))

    def _kill_leftovers(self) -> None:
        """Kill the children that are neither slots nor helpers: they outlived their slots."""
        process_tree.kill_children(but=self._dispatcher.slots.keys() | self._helpers.keys())

    def kill(self) -> None:
        """Kill every process of this runner except the agent."""
        for slot in list(self._dispatcher.slots.values()):
            slot.kill()
        self._helpers.clear()
        self._kill_leftovers()
        if self._dispatcher.memory_groups is not None:
            self._dispatcher.memory_groups.close()
