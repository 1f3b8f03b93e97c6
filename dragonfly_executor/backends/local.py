"""The backend for this machine: each runner is an agent process and the slots that it forks.

The link is an inherited socket pair. So there is no listener that an attacker could reach.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack

from dragonfly_executor import errors
from dragonfly_executor.backends.agent_command import agent_command, is_frozen
from dragonfly_executor.backends.base import Backend, BootRequest, Node
from dragonfly_executor.errors.exit_status import describe_exit
from dragonfly_executor.protocol.parent import MARKER, VARIABLE
from dragonfly_executor.runner import process_tree
from dragonfly_executor.runner.granted_cpus import default_slots
from dragonfly_executor.transport.call_start_table import CallStartTable
from dragonfly_executor.transport.sockets import PACKETS, Socket, socketpair
from dragonfly_executor.util import validation
from dragonfly_executor.util.byte_sizes import byte_size
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Unpack

    from dragonfly_executor.backends.tier_keywords import TierKeywords
    from dragonfly_executor.core.capacity import Capacity
    from dragonfly_executor.protocol.parent import Parent

logger = logging.getLogger("dragonfly_executor")

DEFAULT_SHARE = 4
"""Divisor of the bytes that this process may use: the default of `shared_memory`."""
STOP_TIMEOUT = 2.0
"""Seconds that an agent gets to exit once its link is closed."""
NO_SLOTS_TIMEOUT = 1.0
"""Seconds that an agent without slots gets to exit, as it has no slots to end first. It may not have sent HELLO yet."""
LAST_STARTS = 2.0
"""Seconds that killed processes get to end. Until they have ended, they may still mark a call as begun."""


class LocalBackend(Backend):
    """Boots runners as processes of this machine, with this interpreter.

    Args:
        python: the interpreter of the runners; default: the parent's. Its minor version must be the parent's. A frozen
            program runs itself, and must call `freeze_support`.
        env: environment variables for the runners, in addition to the parent's environment.
        labels: free labels of the runners, such as ``{"big"}``.
        slots: number of slots of each runner; default: the CPUs that this process may use. The pool's `max_concurrency`
            wins.
        shared_memory: most bytes of memory in which a pool exchanges large payloads with its slots, as a number or as
            text such as ``"2GiB"``; 0 for none. Default: a quarter of what this process may use (machine, cgroup).
        tier: `max`, `idle_shutdown_after` and `budget` of the runners of this backend; see `Backend.set_limits`.

    Raises:
        TypeError, ValueError: an argument is invalid.
    """

    name = "local"
    default_max = 1
    expected_boot_time = 0.2

    def __init__(
        self,
        *,
        python: str | None = None,
        env: dict[str, str] | None = None,
        labels: Iterable[str] = (),
        slots: int | None = None,
        shared_memory: int | str | None = None,
        **tier: Unpack[TierKeywords],
    ) -> None:
        self.set_limits(**tier)
        self.slots = None if slots is None else validation.whole(slots, "slots", 1)
        self._python = python or sys.executable
        self._is_program = is_frozen() and self._python == sys.executable
        self._env = dict(env or {})
        self.labels = validation.labels(labels, "labels")
        self._capacity: Capacity | None = None
        self._shared_memory = None if shared_memory is None else byte_size(shared_memory, "shared_memory")
        # Without memfd (macOS), all payloads travel over the stream.
        self.shares_memory = self._shared_memory != 0 and hasattr(os, "memfd_create")

    def __repr__(self) -> str:
        return f"LocalBackend(python={self._python!r})"

    def default_slots(self) -> int | None:
        """Return the constructor's `slots`, or the number of CPUs that this process may use (affinity, cgroup)."""
        return self.slots or default_slots()

    def capacities(self) -> Sequence[Capacity]:
        """See `Backend.capacities`."""
        if self._capacity is None:
            # Imported for the first call that requires something.
            from dragonfly_executor.core.capacity import Capacity
            from dragonfly_executor.runner.machine import RunnerMachine

            self._capacity = Capacity(*RunnerMachine({**os.environ, **self._env}).capacity, self.labels)
        return (self._capacity,)

    def shared_memory_limit(self) -> int:
        """See `Backend.shared_memory_limit`."""
        if not self.shares_memory:
            return 0
        if self._shared_memory is None:
            # Imported for the first large payload.
            from dragonfly_executor.runner.machine import RunnerMachine

            self._shared_memory = RunnerMachine().memory // DEFAULT_SHARE
        return self._shared_memory

    def launch_ahead(self, parent: Parent) -> Node | None:
        """See `Backend.launch_ahead`. None for a subclass with a `boot` of its own, and if no process can be started.

        In the latter case `boot` reports why.
        """
        if type(self).boot is not LocalBackend.boot or self._is_program:
            return None
        try:
            return self._launch(parent)
        except (errors.DragonflyError, OSError, MemoryError, ImportError):
            return None

    def boot(self, request: BootRequest) -> Node:
        """Start an agent process.

        Raises:
            BootError: the agent process cannot be started.
        """
        return self._launch(request.parent)

    def _launch(self, parent: Parent) -> LocalNode:
        if not self._python:
            text = "sys.executable is empty, so this process's interpreter is unknown: use LocalBackend(python=...)"
            raise errors.BootError(text, final=True)
        with ExitStack() as on_failure, ExitStack() as inherited_ends:
            own_end, agent_end = socketpair()
            on_failure.callback(own_end.close)
            inherited_ends.callback(agent_end.close)
            inherited = [agent_end.fileno()]
            starts, memory = _start_table(), None
            if starts is not None:
                on_failure.callback(starts.settle, 0.0)
                inherited_ends.callback(starts.handed_over)
                inherited += starts.inherited
            if starts is not None and self.shares_memory:
                memory, slots_end = socketpair(PACKETS)
                on_failure.callback(memory.close)
                inherited_ends.callback(slots_end.close)
                inherited.append(slots_end.fileno())
            # Before the process starts: a failure after that orphans it.
            preamble, marker = self._preamble(inherited[1:]), os.urandom(8).hex()
            process = self._start(inherited, {VARIABLE: parent.encode(), MARKER: marker})
            on_failure.pop_all()
        if preamble:
            _send(own_end, preamble)
        return LocalNode(process, own_end, f"{MARKER}={marker}".encode(), starts, memory)

    def _start(self, inherited: list[int], variables: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start the process, with these variables in addition to the environment.

        Raises:
            BootError: the process cannot be started.
        """
        environment = {**os.environ, **self._env, **variables, "DRAGONFLY_PARENT_PID": str(os.getpid())}
        try:
            return subprocess.Popen(
                self._command(inherited),
                stdin=subprocess.DEVNULL,
                env=environment,
                pass_fds=inherited,
                # Ctrl-C at the terminal must reach only the parent, which decides about the calls.
                start_new_session=True,
            )
        except OSError as error:
            raise errors.BootError(f"cannot start {self._python}: {error}") from error

    def _command(self, inherited: list[int]) -> list[str]:
        if not self._is_program:
            return agent_command(self._python, *inherited)
        from dragonfly_executor.backends.frozen import frozen_command

        return frozen_command(inherited[0])

    def _preamble(self, starts: list[int]) -> bytes:
        if not self._is_program:
            return b""
        from dragonfly_executor.backends.frozen import preamble

        return preamble(*starts)


class LocalNode(Node):
    """An agent process on this machine, with its slots and their child processes."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        stream: Socket,
        marker: bytes,
        starts: CallStartTable | None = None,
        memory: Socket | None = None,
    ) -> None:
        self.stream = self._socket = stream
        self.memory = memory
        self.starts = starts
        self._process = process
        self._marker = marker
        self._ended_by_itself = False

    def __repr__(self) -> str:
        return f"LocalNode(pid={self._process.pid})"

    def descriptors(self) -> Collection[int]:
        """Return the descriptors of the call start table, and of the socket for shared memory; see `Node`."""
        memory = () if self.memory is None or self.memory.fileno() < 0 else (self.memory.fileno(),)
        return memory if self.starts is None else (*self.starts.descriptors(), *memory)

    def stop(self) -> None:
        """Wait until the agent has exited, or kill its process tree. Then kill processes that outlived the agent."""
        self._socket.close()
        if self.memory is not None:
            self.memory.close()
        timeout = STOP_TIMEOUT if self.sessions else min(STOP_TIMEOUT, NO_SLOTS_TIMEOUT)
        try:
            self._process.wait(0.0 if self.is_silent else timeout)
        except subprocess.TimeoutExpired:
            process_tree.kill_tree(self._process.pid)
            self._process.wait()
        else:
            self._ended_by_itself = True
        if self._process.returncode != 0:
            process_tree.kill_members([self._process.pid, *self.sessions], self._marker)
        if self.starts is not None:
            self.starts.settle(LAST_STARTS)

    def output(self) -> str:
        """Describe the exit of an agent that exited by itself; "" if it was killed or still runs.

        The agent's output is not in it: it went to the parent's stderr.
        """
        code = self._process.returncode
        if code is None or not self._ended_by_itself:
            return ""
        return f"process {self._process.pid} {describe_exit(*((code, None) if code >= 0 else (None, -code)))}"


def _send(sock: Socket, preamble: bytes) -> None:
    try:
        sock.sendall(preamble)
    except OSError:
        return  # the process has already exited, and its link reports that


def _start_table() -> CallStartTable | None:
    try:
        return CallStartTable()
    except OSError as error:
        logger.warning(
            "no shared memory to record which calls have begun (%s): if this runner is lost, the calls that it had not "
            "begun are lost too",
            error,
        )
        return None
