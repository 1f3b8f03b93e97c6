"""The parent's side of the memory in which slots mark the calls that they begin.

The runner's side is `call_start_cells`.
"""

from __future__ import annotations

import os
import select
import threading

from dragonfly_executor.transport.call_start_cells import CELL_BITS, CELLS, MARKS, NO_CELL, SIZE

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Ref = tuple[int, int]


class StartTable:
    """Which calls have a cell, and, in the end, which of them have begun.

    `assign`, `release` and `begun` belong to the engine thread, `settle` to the thread that gives the node back.

    Raises:
        OSError: there is no shared memory to be had, or no descriptor.
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
        """What the agent inherits: the memory, and a pipe's end, which stays open as long as a slot lives."""
        return self._memory, self._held_open

    def handed_over(self) -> None:
        """The agent has inherited its part, or could not be started."""
        os.close(self._held_open)

    def descriptors(self) -> tuple[int, ...]:
        """What a forked child need not keep."""
        return () if self._settled else (self._memory, self._ended)

    @property
    def is_empty(self) -> bool:
        """Whether no call is on the runner."""
        return not self._by_call

    def assign(self, ref: Ref) -> int:
        """Give a call that is sent a cell and the mark for it, as one number; 0 if all cells are in use."""
        number = 0
        if self._free:
            number = self._free.pop()
        elif self._used < CELLS:
            number = (self._used << CELL_BITS) + 1
            self._used += 1
        self._by_call[ref] = number
        return number

    def release(self, ref: Ref) -> None:
        """A call has left the runner."""
        number = self._by_call.pop(ref, 0)
        if number:
            self._free.append(_next_mark(number))

    def release_results(self, results: Iterable[tuple[int, int, Any, Any, Any]]) -> None:
        """Calls have ended: each result starts with its call's id and attempt."""
        by_call, free = self._by_call, self._free
        for call_id, attempt, _, _, _ in results:
            number = by_call.pop((call_id, attempt), 0)
            if number:
                free.append(_next_mark(number))

    def settle(self, patience: float) -> None:
        """Wait until no process is left that could mark a cell, for so many seconds at most. Twice is fine.

        No call may be given a cell any more.
        """
        with self._settling:
            if self._settled:
                return
            self._settled = True
            try:
                # Without a call there is nothing to wait for, and what a call has forked may hold the pipe for long.
                if self._by_call and _ends(self._ended, patience):
                    size = self._used * SIZE // CELLS
                    self._final = memoryview(os.pread(self._memory, size, 0)).cast("H")
            finally:
                os.close(self._memory)
                os.close(self._ended)

    def begun(self) -> set[Ref] | None:
        """After `settle`: the calls on the runner that may have begun; all others have not. None if nobody can tell."""
        if not self._by_call:
            return set()
        final = self._final
        if final is None:
            return None
        numbers = self._by_call.items()
        return {ref for ref, number in numbers if not number or final[number >> CELL_BITS] == number & MARKS}


def _next_mark(number: int) -> int:
    """For the next call that has the cell: what the last one left there means nothing then."""
    return number + 1 if (number + 1) & MARKS else number - MARKS + 1


def _shared_memory() -> int:
    """A descriptor of memory that several processes may map."""
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
            pass  # a sandbox may forbid it: a file without a name does as well
    from tempfile import TemporaryFile

    with TemporaryFile() as file:
        return os.dup(file.fileno())


def _ends(pipe: int, patience: float) -> bool:
    """Whether all writing ends of the pipe close within so many seconds."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    return bool(poll.poll(patience * 1000)) and not os.read(pipe, 1)
