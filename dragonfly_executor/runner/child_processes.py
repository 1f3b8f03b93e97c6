"""An agent's children: slots, helpers, and what slots leave behind when they end.

Here they are forked, reaped and killed, and it is found out what the end of one means. Which slot gets which call is
the dispatcher's matter.
"""

from __future__ import annotations

import os
import sys

from dragonfly_executor.protocol.frames import SETUP_HEAD, Kind, Script, encode
from dragonfly_executor.runner import process_tree, slot_crash
from dragonfly_executor.runner import slot_process as slot_main
from dragonfly_executor.runner import slot_progress as phases
from dragonfly_executor.runner.slot_handle import Slot, SlotOutput
from dragonfly_executor.runner.slot_progress import Progress

# A runner imports this, and importing typing would take as long as all the rest. Type checkers take the name for true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from dragonfly_executor.protocol.frames import Frame
    from dragonfly_executor.runner.dispatch import Dispatcher
    from dragonfly_executor.runner.process_title import Title
    from dragonfly_executor.serialization.working_directory import Place
    from dragonfly_executor.transport.call_start_cells import Cells
    from dragonfly_executor.transport.link import Link
    from dragonfly_executor.transport.loop import Loop

MAX_SETUP_CRASHES = 3
"""Slots in a row that may die before they are ready, until the setup itself is taken to be the reason."""


class Household:
    """The processes below an agent, from their fork to their end.

    Args:
        loop: the agent's.
        link: to the parent, which is told which slots there are and why none can be set up.
        dispatcher: knows the slots that live, and is told when one is ready or has ended.
        on_frames: gets what a slot says.
        descriptors: names what the agent holds open and its children must not.
    """

    def __init__(
        self,
        loop: Loop,
        link: Link,
        dispatcher: Dispatcher,
        on_frames: Callable[[Slot, list[Frame]], None],
        descriptors: Callable[[], list[int]],
    ) -> None:
        self._loop = loop
        self._link = link
        self._dispatcher = dispatcher
        self._on_frames = on_frames
        self._agents_descriptors = descriptors
        self.setup_timeout = 30.0
        """Seconds after its fork in which a slot has to be ready."""
        self.setup_parts: list[bytes] = []
        """What each slot begins with, as it came from the parent."""
        self.starts: Cells | None = None
        """Where slots mark the calls that they begin, by the number that the call brings."""
        self._script: int | None = None
        """The `Script` of slots that are forked from now on; None as the parent says."""
        self._forked = 0
        self.title: Title | None = None
        """Writes what ``ps`` shows."""
        self._setup_crashes = 0
        self._paused: list[Slot] = []
        self._helpers: dict[int, Callable[[int], None]] = {}
        """Children that are no slots, by process id, and who is told how they ended."""

    # -- slots --------------------------------------------------------------------------------------------------------

    def fork_slot(self, place: Place | None, output: SlotOutput) -> Slot:
        """Start a slot, and tell the parent."""
        setup = self._setup()
        try:
            progress = Progress(self._forked + 1, self.starts)
            slot = Slot(self._loop, setup, place, self._descriptors, self._on_frames, output, progress, self.title)
        except OSError:
            output.close()
            raise
        self._forked += 1
        slot.timer = self._loop.call_later(self.setup_timeout, lambda: self._setup_is_late(slot))
        self._link.send(encode(Kind.SLOT_UP, detail=slot.pid))
        return slot

    def _setup(self) -> bytes:
        setup = b"".join(self.setup_parts)
        if self._script is None:
            return setup
        max_payload, size, _ = SETUP_HEAD.unpack_from(setup)
        return SETUP_HEAD.pack(max_payload, size, self._script) + setup[SETUP_HEAD.size :]

    def _descriptors(self) -> list[int]:
        """All that a child must not keep open: the link above all, which only the agent may hold."""
        fds = self._agents_descriptors()
        for slot in self._dispatcher.slots.values():
            fds.extend(slot.descriptors())
        return fds

    def slot_is_ready(self, slot: Slot) -> None:
        """It is set up, and calls run in it from now on."""
        self._setup_crashes = 0
        slot.ready = True
        slot.output.slot_is_ready(slot)
        if slot.timer is not None:
            slot.timer.cancel()
        self._dispatcher.slot_is_ready(slot)

    def _setup_is_late(self, slot: Slot) -> None:
        if slot.ready or slot.pid not in self._dispatcher.slots:
            return
        if slot.progress.phase == phases.IMPORTING_SCRIPT:
            # It concerns the calls that need the script and no others: those run in the next slot.
            self._script = Script.LATE
            slot.kill_reason = Kind.SETUP_FAILED
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
        """Read no more from it, until `resume`."""
        slot.link.pause()
        self._paused.append(slot)

    def resume(self) -> None:
        """Read from every slot again."""
        for slot in self._paused:
            slot.link.resume()
        self._paused.clear()

    # -- helpers ------------------------------------------------------------------------------------------------------

    def run_helper(self, job: Callable[[], int], on_end: Callable[[int], None]) -> None:
        """Run something that blocks in a child, and tell `on_end` the status with which that ended."""
        agent_pid = os.getpid()
        pid = os.fork()
        if pid:
            self._helpers[pid] = on_end
            return
        status = 1
        try:
            slot_main.stand_alone(agent_pid)
            for fd in self._descriptors():
                os.close(fd)
            status = job()
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)

    # -- the end ------------------------------------------------------------------------------------------------------

    def reap(self, *, stopping: bool) -> None:
        """See to the children that have ended; `stopping` says that slots may be expected to."""
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
            elif pid in self._helpers:
                self._helpers.pop(pid)(status)
        self._kill_leftovers()

    def _slot_ended(self, slot: Slot, status: int, *, stopping: bool) -> None:
        process_tree.kill_group(slot.pid)
        slot.link.drain_reads()
        slot.output.slot_has_ended(slot)
        if slot.timer is not None:
            slot.timer.cancel()
        crashed = not slot.ready and slot.kill_reason is None and not stopping
        if crashed and slot.progress.phase == phases.IMPORTING_SCRIPT:
            # Only a call that needs the script is to die of it.
            self._script = Script.SKIP
            crashed = False
        if crashed and self._has_initializer:
            self._setup_crashes += 1
            if self._setup_crashes >= MAX_SETUP_CRASHES:
                last = slot_crash.told(slot, status)
                self._report_setup_failure(f"{self._setup_crashes} slots in a row died before they were ready; {last}")
        # Without user code in its setup nothing speaks for the next slot to fare the same: then its call is told.
        self._dispatcher.slot_ended(slot, status, tell=crashed and not self._has_initializer)
        if slot in self._paused:
            self._paused.remove(slot)
        slot.close()
        slot.output.send(encode(Kind.SLOT_DOWN, detail=slot.pid))

    def _kill_leftovers(self) -> None:
        """What is a child of this agent and not a slot outlived its slot."""
        process_tree.kill_children(but=self._dispatcher.slots.keys() | self._helpers.keys())

    def kill(self) -> None:
        """Kill everything that runs here."""
        for slot in list(self._dispatcher.slots.values()):
            slot.kill()
        self._helpers.clear()
        self._kill_leftovers()
