"""Shared memory in which the slots of a runner mark the calls that they begin.

The parent gives each call that it sends a cell, and a mark that differs from what the cell holds. Both travel as one
number in the call's frame. Right before it runs the call, the slot writes the mark. Once all processes of the runner
have ended the cells are final: a call whose mark is not there has never begun, whatever became of its agent.
"""

from __future__ import annotations

import os

# A runner imports this, and importing typing would take as long as all the rest. Type checkers take the name for true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    Cells = memoryview[int]

CELL_BITS = 16
"""A number is a cell, and below it the mark, in so many bits each."""
MARKS = 2**CELL_BITS - 1
CELLS = 2**CELL_BITS
NO_CELL = 0
"""The cell of calls that have none: nobody can tell whether they have begun. No mark is 0 either."""
SIZE = 2 * CELLS
"""Bytes. Only the pages that are used take memory."""


def map_cells(memory: int) -> Cells:
    """The cells by number, in this process and in those that it forks. Closes the descriptor."""
    # Loading it takes longer than making the map: an agent does so while it waits for its parent.
    from mmap import mmap

    try:
        return memoryview(mmap(memory, SIZE)).cast("H")
    finally:
        os.close(memory)


def mark(cells: Cells, number: int) -> None:
    """A call begins."""
    cells[number >> CELL_BITS] = number & MARKS


def is_marked(cells: Cells, number: int) -> bool:
    """Whether the call with this number may have begun."""
    cell = number >> CELL_BITS
    return cell == NO_CELL or cells[cell] == number & MARKS
