"""What an agent has an eye on besides its link: signals, and the process that started it."""

from __future__ import annotations

import os
import signal
import time

from dragonfly_executor.transport.sockets import Socket, socketpair

# A runner imports this, and importing typing would take as long as all the rest. Type checkers take the name for true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from dragonfly_executor.transport.loop import Loop

BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""It goes on while the machine sleeps: a lease that ran out over night has run out."""


def boot_clock() -> float:
    """Seconds on the clock of the lease."""
    return time.clock_gettime(BOOT_CLOCK)


class Watch:
    """Has things done on the agent's loop when the operating system has news."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._signals: tuple[Socket, ...] = ()
        self._parent = -1

    def signals(self, on_children: Callable[[], None], on_terminate: Callable[[], None]) -> None:
        """Call the one when children may have ended, the other on a SIGTERM. A Ctrl-C is the parent's matter."""
        receiver, sender = socketpair()
        receiver.setblocking(False)
        sender.setblocking(False)
        self._signals = (receiver, sender)
        signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.signal(signal.SIGTERM, lambda number, frame: self._loop.call_soon(on_terminate))
        signal.signal(signal.SIGINT, signal.SIG_IGN)

        def on_signal() -> None:
            """On the loop: take what the signals have written, and look after children."""
            try:
                receiver.recv(256)
            except BlockingIOError:
                return
            on_children()

        self._loop.add_reader(receiver.fileno(), on_signal)

    def parent(self, on_death: Callable[[], None]) -> None:
        """Notice the parent's death where a forked child of it keeps the link's other end open.

        Only where the parent is this machine's process that started the agent, which is what the local backend says.
        """
        parent_pid = int(os.environ.get("DRAGONFLY_PARENT_PID", "0"))
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
        """What the agent's children must not keep open."""
        fds = [end.fileno() for end in self._signals]
        return fds if self._parent < 0 else [*fds, self._parent]
