"""The table of the file descriptors that an agent's children must not keep open."""

from __future__ import annotations

import os
from collections.abc import Iterable

ROOM = 256
"""Descriptors for which the table has room at first."""


class PrivateDescriptors:
    """The descriptors of an agent that are open and that no child of it may keep.

    A forked child closes them first of all. The table is a single block of memory: if the child
    asks the objects that have the descriptors, it copies the memory page of each of them.
    """

    def __init__(self) -> None:
        self._marks = bytearray(ROOM)
        """A one for each descriptor in the table."""

    def add(self, fds: Iterable[int]) -> None:
        """Add descriptors that were opened."""
        marks = self._marks
        for fd in fds:
            if fd >= len(marks):
                marks.extend(bytes(fd + 1))
            marks[fd] = 1

    def discard(self, fds: Iterable[int]) -> None:
        """Remove descriptors that are about to be closed, or that a child is to keep."""
        marks = self._marks
        for fd in fds:
            if 0 <= fd < len(marks):
                marks[fd] = 0

    def close(self) -> None:
        """Close all descriptors of the table, in a forked child. Neighbours are closed by one system call."""
        marks = self._marks
        end = 0
        while (start := marks.find(1, end)) >= 0:
            end = marks.find(0, start)
            if end < 0:
                end = len(marks)
            os.closerange(start, end)
