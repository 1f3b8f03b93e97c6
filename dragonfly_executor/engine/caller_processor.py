"""`CallerProcessor`: while processors are scarce, has the engine thread run where the thread runs that submits."""

from __future__ import annotations

import os
from contextlib import suppress

PERIOD = 0.02
"""Seconds of an engine with events between two reviews."""
SCARCE = 0.05
"""Share of the time in which the engine thread was ready and had no processor. From here on processors are scarce."""
_PROCESSOR = 36
"""The place of the processor in ``/proc/PID/stat``, counted from 0 behind the name of the program (proc(5))."""
_NEVER = float("inf")


class CallerProcessor:
    """The processor of the thread that submits. It belongs to the engine thread, but for `thread`.

    The two threads share the interpreter lock, so they never run at the same time. If the kernel has them on two
    processors, and the agent or a slot runs on the engine's, then all wait for the engine. It has the lock but
    no processor, and the other processor is idle until the engine releases the lock. The kernel leaves threads where
    they are, so a program stays in that state for seconds. After a single move it stays as long on the other one.

    Only Linux tells threads where they run. Elsewhere nothing happens.

    Attributes:
        thread: the native id of the thread that has woken the engine last; 0 for none.
        due: the time of the next review, in seconds of `time.monotonic`.
    """

    def __init__(self, is_useful: bool) -> None:
        self.thread = 0
        self.due = 0.0 if is_useful and hasattr(os, "sched_setaffinity") else _NEVER
        self._reviewed = 0.0
        self._waited = 0.0

    def review(self, now: float) -> None:
        """Move this thread if it lacks processor time on another processor than the thread that submits."""
        since, self._reviewed = now - self._reviewed, now
        self.due = now + PERIOD
        try:
            waited = _waited()
        except (OSError, ValueError, IndexError):
            self.due = _NEVER  # this system has no such file
            return
        lacked, self._waited = waited - self._waited, waited
        if lacked > SCARCE * since and self.thread:
            with suppress(OSError):  # the other thread has ended, or may run nowhere where this one may
                _move_to(_processor_of(f"self/task/{self.thread}"))


def _waited() -> float:
    """Return the seconds for which this thread was ready to run and had no processor."""
    return int(_read("thread-self/schedstat").split()[1]) * 1e-9


def _processor_of(thread: str) -> int:
    """Return the processor on which a thread runs or ran last."""
    return int(_read(f"{thread}/stat").rpartition(b")")[2].split()[_PROCESSOR])


def _read(name: str) -> bytes:
    """Read a file of /proc. `open` would load codecs and make three objects."""
    file = os.open(f"/proc/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, 1024)
    finally:
        os.close(file)


def _move_to(processor: int) -> None:
    """Have this thread go on there. It may leave again at once: the processors that it may use do not change."""
    usable = os.sched_getaffinity(0)
    if processor in usable and processor != _processor_of("thread-self"):
        os.sched_setaffinity(0, {processor})
        os.sched_setaffinity(0, usable)
