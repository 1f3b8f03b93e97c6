"""A slot before its fork, and its first steps after it.

An agent that grows forks several slots in a row. Whatever an agent does between two forks copies each page of memory
that it writes to. So all sockets and pipes are made before the first fork, and all handles after the last one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence

from dragonfly_executor.runner import slot_process
from dragonfly_executor.runner.fault_traceback import FaultTraceback
from dragonfly_executor.runner.result_ring import ResultRing
from dragonfly_executor.runner.slot_calls import SlotQueue
from dragonfly_executor.runner.slot_template import SlotTemplate
from dragonfly_executor.transport.sockets import SO_SNDBUF, SOL_SOCKET, Socket, socketpair
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NoReturn

    from dragonfly_executor.runner.agent_stream import AgentStream
    from dragonfly_executor.runner.private_descriptors import PrivateDescriptors
    from dragonfly_executor.runner.process_title import ProcessTitle
    from dragonfly_executor.runner.slot_output import SlotStreams
    from dragonfly_executor.runner.slot_progress import Progress
    from dragonfly_executor.serialization.working_directory import WorkingDirectory

STREAM_BUFFER = 256 * 1024
"""Send buffer of a slot's stream in bytes, in each direction. A chunk of a large payload then leaves in one write."""


class NewSlotOutput:
    """The output of a slot, as far as its fork needs it. Default: the slot inherits the agent's streams."""

    def take_over(self, agent: AgentStream) -> SlotStreams | None:
        """Redirect the streams of the forked slot. Return the reader of its calls' output, or None if there is none."""
        return None

    def descriptors(self) -> list[int]:
        """Return the descriptors that another slot must not inherit."""
        return []

    def close(self) -> None:
        """Close the descriptors."""


class NewSlot:
    """A slot that is about to be forked. It belongs to the agent until then, and to agent and slot after that.

    Args:
        progress: the page that tells the agent what the slot is doing.
        output: its output, which the caller closes if this raises.
        title: the writer of titles; None if slots have none.
        environment: the variables that the slot sets first of all.

    Raises:
        OSError: there are no descriptors left.
    """

    def __init__(
        self,
        progress: Progress,
        *,
        output: NewSlotOutput,
        title: ProcessTitle | None,
        environment: Mapping[str, str],
    ) -> None:
        self.progress = progress
        self.title = title
        self.role = f"slot {progress.number}"
        # A slot that formats it itself copies the pages of all that this takes.
        self._prepared_title = None if title is None else title.prepare(self.role)
        self._output = output
        self._environment = environment
        self.stack = FaultTraceback()
        self.ring: ResultRing | None = None
        made: list[SlotQueue | Socket] = []
        try:
            self.ring = ResultRing.make()
            self.queue = SlotQueue()
            made.append(self.queue)
            self.agents_end, self._slots_end = ends = socketpair()
            made.extend(ends)
            for sock in ends:
                sock.setsockopt(SOL_SOCKET, SO_SNDBUF, STREAM_BUFFER)
        except OSError:
            self.stack.close()
            if self.ring is not None:
                self.ring.close()
            for each in made:
                each.close()
            raise
        self._set_inherited(inherited=False)

    def descriptors(self) -> list[int]:
        """Return all descriptors that were made for the slot."""
        ends = (self.agents_end.fileno(), self._slots_end.fileno())
        return [*self.queue.descriptors(), *ends, *self._common_descriptors()]

    def _common_descriptors(self) -> list[int]:
        ring = [] if self.ring is None else [self.ring.fileno()]
        return [*ring, *self.stack.descriptors(), *self._output.descriptors()]

    def fork(self) -> int:
        """Fork. Return the process id of the slot; 0 in the slot.

        Raises:
            OSError: there is no room for another process.
        """
        self._set_inherited(inherited=True)
        try:
            pid = os.fork()
        except OSError:
            self._set_inherited(inherited=False)
            raise
        if pid:
            # No other slot gets this memory. Also, each mapping that is inherited makes a fork slower.
            self._set_inherited(inherited=False)
        return pid

    def _set_inherited(self, *, inherited: bool) -> None:
        self.progress.set_inherited(inherited=inherited)
        if self.ring is not None:
            self.ring.set_inherited(inherited=inherited)

    def keep_agents_ends(self) -> None:
        """Close the ends that only the slot needs, once it is forked."""
        self._slots_end.close()
        self.stack.keep_reader()

    def close(self) -> None:
        """Close all descriptors of a slot that could not be forked."""
        self.queue.close()
        self.agents_end.close()
        self._slots_end.close()
        self.stack.close()
        if self.ring is not None:
            self.ring.close()
        self._output.close()
        self.progress.close()

    def run(
        self,
        private: PrivateDescriptors,
        *,
        setup: bytes,
        place: WorkingDirectory | None,
        template: SlotTemplate | None,
        rendezvous: Socket | None,
        agent_pid: int,
    ) -> NoReturn:
        """Close the agent's descriptors in the forked child, then run calls. Never return to the agent's code."""
        try:
            own = (*self.queue.descriptors(), self._slots_end.fileno())
            private.discard((*own, *self._common_descriptors()))
            private.close()
            self.stack.record()
            for name, value in self._environment.items():
                os.environ[name] = value
            if self.title is not None and self._prepared_title is not None:
                self.title.write(*self._prepared_title)
            slot_process.main(
                self.queue,
                self._slots_end,
                self.ring,
                template=SlotTemplate(setup, place) if template is None else template,
                rendezvous=rendezvous,
                agent_pid=agent_pid,
                take_over_output=self._output.take_over,
                progress=self.progress,
            )
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            os._exit(1)


def fork_all(new: Sequence[NewSlot], run: Callable[[NewSlot], NoReturn]) -> tuple[list[int], OSError | None]:
    """Fork slots, one after the other, until one cannot be forked.

    Args:
        new: the slots.
        run: called with a slot in its forked child; does not return.

    Returns:
        The process ids of the first slots, and the error of the next one; None if all were forked.
    """
    pids: list[int] = []
    for slot in new:
        try:
            pid = slot.fork()
        except OSError as error:
            return pids, error
        if pid == 0:
            run(slot)
        pids.append(pid)
    return pids, None
