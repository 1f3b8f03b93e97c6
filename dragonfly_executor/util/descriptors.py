"""Descriptors that a slot keeps away from those of calls."""

from __future__ import annotations

import os

HIGH_NUMBER = 512
"""Lowest number of a descriptor that was moved up, unless the limit on descriptors is lower."""


def move_up(fd: int) -> int:
    """Give a descriptor a high number, if there is one, and close the old number. Return the number.

    A call may close descriptors that are not its own, and open files, which get the lowest free numbers. A slot must
    then neither write into these files nor read from them.
    """
    from fcntl import F_DUPFD_CLOEXEC, fcntl

    try:
        high: int = fcntl(fd, F_DUPFD_CLOEXEC, HIGH_NUMBER)
    except OSError:
        return fd  # the limit on descriptors is lower, or reached
    os.close(fd)
    return high
