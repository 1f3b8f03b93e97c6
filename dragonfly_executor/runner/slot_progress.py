"""The progress of a slot, in a page of memory that the slot writes and its agent reads.

An agent that waits for a limit to pass cannot ask a busy slot. So the slot records its progress here, which costs no
system call. The page is shared and anonymous: it is mapped before the fork and needs no file.
"""

from __future__ import annotations

from mmap import mmap
from struct import Struct
from time import monotonic

from dragonfly_executor.transport import call_start_cells
from dragonfly_executor.transport.call_start_cells import CELL_BITS, MARKS
from dragonfly_executor.util.forked_memory import set_inherited
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.transport.call_start_cells import Cells

STARTING, IMPORTING_SCRIPT, INITIALIZING, READY = range(4)
"""The phases of a slot's setup, in order."""
_BEGUN = Struct("=dQH")
"""The start of a call's function on the monotonic clock, the call's id, its attempt."""
_BEGUN_AT = 8
_LEVEL = Struct("=L")
_LEVEL_AT = _BEGUN_AT + _BEGUN.size
SAME_LEVEL = 2**32 - 1
"""The log level of a slot to which the agent has sent no other level."""


class Progress:
    """The progress of one slot.

    Args:
        number: the slot's number on its runner; see `SlotRecord`.
        starts: memory that the parent reads, in which all slots of the runner mark the calls that they start; None if
            the parent has none.
    """

    def __init__(self, number: int = 0, starts: Cells | None = None) -> None:
        self.number = number
        self._starts = starts
        self._page = mmap(-1, _LEVEL_AT + _LEVEL.size)
        self.log_level = SAME_LEVEL

    def set_inherited(self, *, inherited: bool) -> None:
        """Have the processes that are forked from now on get the page, or not."""
        set_inherited(self._page, inherited=inherited)

    @property
    def phase(self) -> int:
        """Return the current phase of the setup."""
        return self._page[0]

    @phase.setter
    def phase(self, phase: int) -> None:
        self._page[0] = phase

    def mark(self, cell: int) -> None:
        """Mark a call as started.

        Do this before any user code runs for the call: decoding its arguments may import modules.

        Args:
            cell: the number that the call brought.
        """
        starts = self._starts
        if starts is not None:
            starts[cell >> CELL_BITS] = cell & MARKS  # as `call_start_cells.mark`, but each call comes here

    def may_have_begun(self, cell: int) -> bool:
        """Return False if the call that brought this number has not started in any slot."""
        return self._starts is None or call_start_cells.is_marked(self._starts, cell)

    def begin(self, call_id: int, attempt: int) -> None:
        """Record that the function of this call starts now."""
        _BEGUN.pack_into(self._page, _BEGUN_AT, monotonic(), call_id, attempt)

    def began(self, call_id: int, attempt: int) -> float | None:
        """Return the time at which the function of this call started; None if it has not started."""
        moment, *ref = _BEGUN.unpack_from(self._page, _BEGUN_AT)
        return moment if ref == [call_id, attempt] else None

    @property
    def log_level(self) -> int:
        """Return the level from which calls send log records; `SAME_LEVEL` for the slot's initial level.

        The agent writes it, and the slot reads it before each call.
        """
        level: int = _LEVEL.unpack_from(self._page, _LEVEL_AT)[0]
        return level

    @log_level.setter
    def log_level(self, level: int) -> None:
        _LEVEL.pack_into(self._page, _LEVEL_AT, level)

    def close(self) -> None:
        """Unmap the page from this process."""
        self._page.close()
