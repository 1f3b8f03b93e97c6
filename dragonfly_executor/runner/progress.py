"""How far a slot is: a page of memory that the slot writes and its agent reads.

An agent that waits for a limit to pass cannot ask a slot that is busy. So the slot notes here what it does, which costs
no system call. The page is shared and anonymous: it is mapped before the fork and needs no file.
"""

from __future__ import annotations

from mmap import mmap
from struct import Struct
from time import monotonic

STARTING, IMPORTING_SCRIPT, INITIALIZING, READY = range(4)
"""The phases of a slot's set-up, in their order."""
_BEGUN = Struct("=dQH")
"""The moment on the monotonic clock, the call's id, its attempt."""
_BEGUN_AT = 8


class Progress:
    """What one slot does now.

    Args:
        number: of the slot, counted from 1 on its runner.
    """

    def __init__(self, number: int = 1) -> None:
        self.number = number
        self._page = mmap(-1, _BEGUN_AT + _BEGUN.size)

    @property
    def phase(self) -> int:
        """Return the phase of the set-up that the slot is in."""
        return self._page[0]

    @phase.setter
    def phase(self, phase: int) -> None:
        self._page[0] = phase

    def begin(self, call_id: int, attempt: int) -> None:
        """Note that the function of this call begins now."""
        _BEGUN.pack_into(self._page, _BEGUN_AT, monotonic(), call_id, attempt)

    def began(self, call_id: int, attempt: int) -> float | None:
        """Return the moment at which the function of this call began; None if it has not begun."""
        moment, *ref = _BEGUN.unpack_from(self._page, _BEGUN_AT)
        return moment if ref == [call_id, attempt] else None

    def close(self) -> None:
        """Unmap the page from this process."""
        self._page.close()
