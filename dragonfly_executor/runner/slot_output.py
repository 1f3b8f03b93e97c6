"""A slot's half of what comes back from calls: at the end of each call it reads its own pipes.

What is in them then was written by that call, and goes out before the call's result does. So the next call can begin at
once, without a word from the agent, and neither gets what the other wrote.
"""

from __future__ import annotations

import os
import select
import sys

from dragonfly_executor.protocol.frames import HEADER_SIZE
from dragonfly_executor.runner import slot_logging
from dragonfly_executor.runner.output_pipes import Pipes
from dragonfly_executor.transport.sockets import Socket

# A runner imports this, and importing typing would take as long as all the rest. Type checkers take the name for true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from io import TextIOWrapper

BY_LINES = 1
"""C's ``_IOLBF``, where it has one."""


class OwnOutput:
    """What the calls of this process write."""

    def __init__(self, pipes: Pipes, results: Socket, log_level: int | None) -> None:
        self._pipes = pipes
        self._results = results
        self._pid = os.getpid()
        log = pipes.move_in()
        self._streams = (_by_lines(1), _by_lines(2))
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__ = self._streams  # type: ignore[misc]  # they are final
        _c_streams_by_lines()
        self._records = None if log is None or log_level is None else slot_logging.Records(log, log_level)
        poll = select.poll()
        for fd in pipes.sources:
            poll.register(fd, select.POLLIN)
        self._poll = poll

    def begin_call(self, log_level: int) -> None:
        """Have the call that follows send log records from this level on."""
        if self._records is not None:
            self._records.follow(log_level)

    def end_call(self, call_id: int, attempt: int) -> None:
        """Send what this call has written and nobody has read yet; call 0 is the slot itself."""
        for stream in self._streams:
            try:
                stream.flush()
            except (OSError, ValueError):
                continue  # a call has closed it
        found = self._poll.poll(0)
        if not found:
            return
        has_turn = self._pipes.wait_for_turn()
        for fd, _ in found:
            for frame in self._pipes.frames(fd, call_id, attempt, self._pid):
                self._results.sendall(frame)
            if fd not in self._pipes.sources:
                self._poll.unregister(fd)
        if has_turn:
            self._pipes.give_turn()

    def wait_for_agent(self) -> None:
        """Until it has heard that the slot is ready: what is written from now on is a call's."""
        left = HEADER_SIZE
        while left:
            data = self._results.recv(left)
            if not data:
                os._exit(1)
            left -= len(data)


def _by_lines(fd: int) -> TextIOWrapper:
    """A stream that writes each line when it is complete, as UTF-8. The agent's own may have been made for a file."""
    return open(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _c_streams_by_lines() -> None:
    """The same for what C libraries print; they keep it for kilobytes where they do not see a terminal."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    library = ctypes.CDLL(None)
    try:
        library.setvbuf(ctypes.c_void_p.in_dll(library, "stdout"), None, BY_LINES, 0)
    except (ValueError, AttributeError):
        return  # a C library that has no such names
