"""The parent's side of the memory in which slots mark the calls that they begin.

The runner's side is `call_start_cells`.
"""

from __future__ import annotations

import os
import select
import threading

from dragonfly_executor.transport.call_start_cells import CELL_BITS, CELLS, MARKS, NO_CELL, SIZE
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Ref = tuple[int, int]


class CallStartTable:
    """The calls that have a cell, and after `settle` those that have begun.

    The engine thread calls `assign`, `release` and `begun`. The thread that releases the node calls `settle`.

    Raises:
        OSError: there is no shared memory, or no descriptor, left.
    """

    def __init__(self) -> None:
        self._memory = _shared_memory()
        try:
            self._ended, self._held_open = os.pipe()
        except OSError:
            os.close(self._memory)
            raise
        self._final: memoryview | None = None
        self._settled = False
        self._settling = threading.Lock()
        self._by_call: dict[Ref, int] = {}
        self._free: list[int] = []
        self._used = NO_CELL + 1

    @property
    def inherited(self) -> tuple[int, int]:
        """Return the descriptors that the agent inherits: the memory, and a pipe end that every slot holds open."""
        return self._memory, self._held_open

    def handed_over(self) -> None:
        """Close the pipe end that the agent has inherited. Call it even if the agent could not be started."""
        os.close(self._held_open)

    def descriptors(self) -> tuple[int, ...]:
        """Return the descriptors that a forked child need not keep."""
        return () if self._settled else (self._memory, self._ended)

    @property
    def is_empty(self) -> bool:
        """Return whether no call is on the runner."""
        return not self._by_call

    def assign(self, ref: Ref) -> int:
        """Assign a cell and a mark to a call that is sent.

        Returns:
            Both as one number; 0 if all cells are in use.
        """
        number = 0
        if self._free:
            number = self._free.pop()
        elif self._used < CELLS:
            number = (self._used << CELL_BITS) + 1
            self._used += 1
        self._by_call[ref] = number
        return number

    def release(self, ref: Ref) -> None:
        """Release the cell of a call that has left the runner."""
        number = self._by_call.pop(ref, 0)
        if number:
            self._free.append(_next_mark(number))

    def release_results(self, results: Iterable[tuple[int, int, Any, Any, Any]]) -> None:
        """Release the cells of calls that have ended. Each result starts with its call's id and attempt."""
        by_call, free = self._by_call, self._free
        for call_id, attempt, _, _, _ in results:
            number = by_call.pop((call_id, attempt), 0)
            if number:
                # As in `_next_mark`.
                free.append(number + 1 if (number + 1) & MARKS else number - MARKS + 1)

    def settle(self, timeout: float) -> None:
        """Wait until no process is left that can mark a cell. Further calls do nothing.

        No call may be assigned a cell any more.

        Args:
            timeout: maximum time to wait, in seconds.
        """
        with self._settling:
            if self._settled:
                return
            self._settled = True
            try:
                # Without a call there is nothing to wait for, and a process that a call has forked may hold the pipe
                # for long.
                if self._by_call and _ends(self._ended, timeout):
                    size = self._used * SIZE // CELLS
                    self._final = memoryview(os.pread(self._memory, size, 0)).cast("H")
            finally:
                os.close(self._memory)
                os.close(self._ended)

    def begun(self) -> set[Ref] | None:
        """Return the calls on the runner that may have begun, after `settle`; all others have not begun.

        None if unknown.
        """
        if not self._by_call:
            return set()
        final = self._final
        if final is None:
            return None
        numbers = self._by_call.items()
        return {ref for ref, number in numbers if not number or final[number >> CELL_BITS] == number & MARKS}


def _next_mark(number: int) -> int:
    """Return the number with the next mark, which differs from the mark that the cell's last call may have left."""
    return number + 1 if (number + 1) & MARKS else number - MARKS + 1


def _shared_memory() -> int:
    """Return a descriptor of memory that several processes may map."""
    memory = _memory_file()
    try:
        os.ftruncate(memory, SIZE)
    except OSError:
        os.close(memory)
        raise
    return memory


def _memory_file() -> int:
    if hasattr(os, "memfd_create"):
        try:
            return os.memfd_create("dragonfly-starts")
        except OSError:
            pass  # a sandbox may forbid memfd: an unlinked file serves as well
    from tempfile import TemporaryFile

    with TemporaryFile() as file:
        return os.dup(file.fileno())


def _ends(pipe: int, timeout: float) -> bool:
    """Return whether all writing ends of the pipe close within `timeout` seconds."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    return bool(poll.poll(timeout * 1000)) and not os.read(pipe, 1)
