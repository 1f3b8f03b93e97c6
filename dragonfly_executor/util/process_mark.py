"""Tells a process from the children that it forks, without a system call."""

from __future__ import annotations

import os
import sys
from mmap import mmap

MADV_WIPEONFORK = 18
"""The advice of madvise(2) that a forked child gets this memory as zeros. Python has no name for it."""
SIZE = 4096


class ProcessMark:
    """A mark that the process which made it has, and none of its forked children.

    On Linux it is a byte of memory that the kernel clears in each child, however that was forked. Elsewhere it is the
    process id.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._page = _wiped_page()

    def move_here(self) -> None:
        """Make this process, a forked child of the one that has the mark, the only one that has it."""
        self._pid = os.getpid()
        if self._page is not None:
            self._page[0] = 1

    def is_here(self) -> bool:
        """Return True in the process that made this mark, and False in a child that it forked."""
        return self._page[0] == 1 if self._page is not None else os.getpid() == self._pid


def _wiped_page() -> mmap | None:
    """Return a page that holds a one here and zeros in each forked child; None if the system has no such pages."""
    if not sys.platform.startswith("linux"):
        return None
    import mmap as constants

    page = mmap(-1, SIZE, flags=constants.MAP_PRIVATE | constants.MAP_ANONYMOUS)
    try:
        page.madvise(MADV_WIPEONFORK)
    except OSError:
        page.close()
        return None
    page[0] = 1
    return page
