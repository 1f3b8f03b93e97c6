"""Shared memory in which the slots of a runner mark the calls that they begin.

The parent gives each call that it sends a cell, and a mark that differs from the cell's value. Both travel as one
number in the call's frame. The slot writes the mark right before it runs the call. The cells are final once all
processes of the runner have ended. A call whose mark is missing then has never begun, even if its agent crashed.
"""

from __future__ import annotations

import os

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    Cells = memoryview[int]

CELL_BITS = 16
"""Bits of a cell's index, and of the mark below it, in a call's number."""
MARKS = 2**CELL_BITS - 1
CELLS = 2**CELL_BITS
NO_CELL = 0
"""Cell of the calls that have none: it is unknown whether they have begun. No mark is 0 either."""
SIZE = 2 * CELLS
"""Size of the memory in bytes. Only pages that are used take memory."""


def map_cells(memory: int) -> Cells:
    """Map the memory and close its descriptor.

    Returns:
        The cells by index, shared with the processes that this process forks.
    """
    # Importing mmap takes longer than the mapping: an agent imports it while it waits for its parent.
    from mmap import mmap

    try:
        return memoryview(mmap(memory, SIZE)).cast("H")
    finally:
        os.close(memory)


def mark(cells: Cells, number: int) -> None:
    """Mark the call with this number as begun."""
    cells[number >> CELL_BITS] = number & MARKS


def is_marked(cells: Cells, number: int) -> bool:
    """Return whether the call with this number may have begun."""
    cell = number >> CELL_BITS
    return cell == NO_CELL or cells[cell] == number & MARKS
