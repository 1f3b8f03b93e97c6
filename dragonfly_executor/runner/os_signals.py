"""Watches the events of an agent other than its link's: signals, and the end of its parent process."""

from __future__ import annotations

import os
import time

from dragonfly_executor.transport.sockets import Socket, socketpair
from dragonfly_executor.util import plain_signal as signal
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragonfly_executor.transport.loop import Loop

BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""A clock that runs while the machine sleeps, so that a lease that ran out overnight has expired."""


def boot_clock() -> float:
    """Return the time on the lease's clock, in seconds."""
    return time.clock_gettime(BOOT_CLOCK)


class OsSignals:
    """Handlers on the agent's loop for events that the operating system reports."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._signals: tuple[Socket, ...] = ()
        self._parent = -1

    def signals(self, on_children: Callable[[], None], on_terminate: Callable[[], None]) -> None:
        """Call `on_children` when children may have ended, and `on_terminate` on a SIGTERM. Ignore SIGINT."""
        receiver, sender = socketpair()
        receiver.setblocking(False)
        sender.setblocking(False)
        self._signals = (receiver, sender)
        signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.signal(signal.SIGTERM, lambda number, frame: self._loop.call_soon(on_terminate))
        signal.signal(signal.SIGINT, signal.SIG_IGN)

        def on_signal() -> None:
            """Drain the wake-up socket, then handle ended children. Runs on the loop."""
            try:
                receiver.recv(256)
            except BlockingIOError:
                return
            on_children()

        self._loop.add_reader(receiver.fileno(), on_signal)

    def parent(self, on_death: Callable[[], None], starter: int | None) -> None:
        """Call `on_death` when the parent process ends, even if a forked child of it keeps the link's other end open.

        This works only if the parent is a process of this machine that started the agent. The local backend says so by
        ``DRAGONFLY_PARENT_PID``.

        Args:
            on_death: called on the loop.
            starter: the process id of another process that started the agent, and whose end ends the agent.
        """
        parent_pid = starter or int(os.environ.get("DRAGONFLY_PARENT_PID", "0"))
        if not parent_pid:
            return
        if os.getppid() != parent_pid:
            on_death()
        if hasattr(os, "pidfd_open"):
            try:
                self._parent = os.pidfd_open(parent_pid)
            except OSError:
                return
            self._loop.add_reader(self._parent, on_death)

    def descriptors(self) -> list[int]:
        """Return the file descriptors that the agent's children must not keep open."""
        fds = [end.fileno() for end in self._signals]
        return fds if self._parent < 0 else [*fds, self._parent]
