"""Distinguishes a process that runs or waits for long from a process that only lacks processor time."""

from __future__ import annotations

import sys
import time

from dragonfly_executor.runner import process_tree

ENOUGH = 0.001
"""Seconds of processor time, between two looks, with which a process does not lack any."""
_CLOCK = 2
"""The type of clock id of Linux that measures the processor time of a process (CPUCLOCK_SCHED)."""


class ProcessorTime:
    """The processor time of one child process.

    Args:
        pid: its process id. It is not reaped while this object is used.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._clock = ~pid << 3 | _CLOCK
        self._number = 0
        self._used = 0.0

    def is_lacking(self, number: int) -> bool:
        """Return True if the process could run, and got hardly any processor time since the first check of this call.

        The first check of a call cannot know this, and returns True if the process could run. On systems without /proc,
        this returns False.

        Args:
            number: the number of the call, which differs from the numbers of other calls.
        """
        if not sys.platform.startswith("linux"):
            return False
        try:
            if process_tree.status_of(str(self._pid))[0] != b"R":
                return False
            used = time.clock_gettime(self._clock)
        except OSError:
            return False
        if number != self._number:
            self._number, self._used = number, used
        return used - self._used < ENOUGH
