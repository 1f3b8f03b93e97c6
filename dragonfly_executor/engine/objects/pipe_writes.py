"""Writes messages of multiprocessing into pipes, so that a wait for room can be given up."""

from __future__ import annotations

import os
import select
import struct

from dragonfly_executor.engine.objects.semaphores import STEP
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

LENGTH = struct.Struct("!i")
"""The length in front of a message, as multiprocessing writes it."""


def send_in_steps(connection: Any, data: bytes, check: Callable[[], object], shielded: Callable[[], object]) -> None:
    """Send a message. multiprocessing's own method waits in the kernel without end if nothing reads the pipe.

    Args:
        connection: the writing end.
        data: the message, less than 2 GiB.
        check: called while nothing is written yet, and may raise.
        shielded: called later: half a message leaves the pipe unusable.
    """
    left = memoryview(LENGTH.pack(len(data)) + data)
    fd, poll = connection.fileno(), select.poll()
    poll.register(fd, select.POLLOUT)
    while left:
        check()
        # If there is room, this much can be written without a wait.
        if poll.poll(STEP * 1000):
            left = left[os.write(fd, left[: select.PIPE_BUF]) :]
            check = shielded
