"""Passes the Python stack of a slot that dies of a fault to its agent, through a pipe that faulthandler writes to."""

from __future__ import annotations

import faulthandler
import os

from dragonfly_executor.util import plain_signal as signal

MOST = 16 * 1024
"""Maximum characters of a stack that are passed on."""
FAULTS = frozenset({signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS, signal.SIGILL})
"""The signals at which faulthandler writes a stack."""
CALLERS_FILE, CALLER = "dragonfly_executor/serialization/slot_codec.py", " in perform"
TITLE = b"Fatal Python error"


def _without_own_frames(text: str) -> str:
    """Remove this package's frames, which stand below the call's own frames."""
    kept: list[str] = []
    is_ours = False
    for line in text.splitlines(keepends=True):
        is_ours = bool(line.strip()) and (is_ours or (line.rstrip().endswith(CALLER) and CALLERS_FILE in line))
        if not is_ours:
            kept.append(line)
    return "".join(kept)


class FaultTraceback:
    """The pipe for a slot's last stack. It is made before the fork; each side then keeps its end."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)

    def record(self) -> None:
        """Set up the slot to write the stacks of all its threads if it dies of a fault."""
        os.close(self._reader)
        self._reader = -1
        faulthandler.enable(self._writer)

    def keep_reader(self) -> None:
        """Close the writing end in the agent, after the fork."""
        os.close(self._writer)
        self._writer = -1

    def read(self, signal_number: int) -> str:
        """Return the stack of a slot that this signal ended; "" if it wrote none."""
        if signal_number not in FAULTS:
            return ""
        try:
            data = os.read(self._reader, 1 << 16)
        except BlockingIOError:
            return ""
        # A process that the slot forked may have died earlier, and its stack is in the same pipe.
        start = data.rfind(TITLE)
        return _without_own_frames(data[max(start, 0) :].decode(errors="replace"))[:MOST]

    def descriptors(self) -> list[int]:
        """Return the descriptors that another slot must not inherit."""
        return [fd for fd in (self._reader, self._writer) if fd >= 0]

    def close(self) -> None:
        """Close this side's end."""
        for fd in self.descriptors():
            os.close(fd)
        self._reader = self._writer = -1
