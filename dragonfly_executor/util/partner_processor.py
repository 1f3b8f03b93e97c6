"""`PartnerProcessor`: while processors are scarce, has a thread run on the processor of its partner."""

from __future__ import annotations

import os

PERIOD = 0.02
"""Seconds between two reviews."""
SCARCE = 0.05
"""Share of the time in which the thread was ready and had no processor. From here on processors are scarce."""
_PROCESSOR = 36
"""The place of the processor in ``/proc/PID/stat``, counted from 0 behind the name of the program (proc(5))."""
_NEVER = float("inf")


class PartnerProcessor:
    """The processor of a partner: of a thread that this thread works with in turn. The two never run at the same time.

    If the kernel has them on two processors, and others run where this thread is ready to run, then both wait for this
    thread, and the partner's processor is idle. The kernel leaves threads where they are, so a program stays in that
    state for seconds. After a single move it stays as long in the other one.

    Only Linux tells threads where they run. Elsewhere nothing happens.

    Args:
        is_useful: False if there is only one processor.

    Attributes:
        partner: the number of the partner, which is the process id for a main thread; 0 for none. Any thread may set
            it.
        due: the time of the next review, in seconds of `time.monotonic`.
    """

    __slots__ = ("_reviewed", "_waited", "due", "partner")

    def __init__(self, is_useful: bool) -> None:
        self.partner = 0
        self.due = 0.0 if is_useful and hasattr(os, "sched_setaffinity") else _NEVER
        self._reviewed = 0.0
        self._waited = 0.0

    def review(self, now: float, *, in_turn: bool = False) -> None:
        """Move this thread if it lacks processor time on another processor than its partner's.

        Args:
            now: seconds of `time.monotonic`.
            in_turn: move it even if it lacks none, because each of the two waits for the other one.
        """
        since, self._reviewed = now - self._reviewed, now
        self.due = now + PERIOD
        try:
            waited = _waited()
        except (OSError, ValueError, IndexError):
            self.due = _NEVER  # this system has no such file
            return
        lacked, self._waited = waited - self._waited, waited
        if self.partner and (in_turn or lacked > SCARCE * since):
            try:
                _move_to(_processor_of(str(self.partner)))
            except OSError:
                return  # the partner has ended, or the processors that may be used change just now


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
