"""A slot's half of output: the slot reads its own pipes at the end of each call.

At that moment the pipes hold text of this call only, which is sent before the call's result. So the next call can start
at once, without waiting for the agent, and each text belongs to one call.
"""

from __future__ import annotations

import os
import select
import sys

from dragonfly_executor.protocol.frames import HEADER_SIZE
from dragonfly_executor.runner import slot_logging
from dragonfly_executor.runner.output_pipes import OutputPipes
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from io import TextIOWrapper

    from dragonfly_executor.runner.agent_stream import AgentStream

BY_LINES = 1
"""The value of C's ``_IOLBF``."""


class SlotStreams:
    """The output of this process's calls."""

    def __init__(self, pipes: OutputPipes, agent: AgentStream, log_level: int | None) -> None:
        self._pipes = pipes
        self._agent = agent
        self._pid = os.getpid()
        log = pipes.move_in()
        self._streams = (_by_lines(1), _by_lines(2))
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__ = self._streams  # type: ignore[misc]  # they are final
        _c_streams_by_lines()
        self._records = None if log is None or log_level is None else slot_logging.LogForwarder(log, log_level)
        poll = select.poll()
        for fd in pipes.sources:
            poll.register(fd, select.POLLIN)
        self._poll = poll

    def begin_call(self, log_level: int) -> None:
        """Set the level from which the next call sends log records."""
        if self._records is not None:
            self._records.follow(log_level)

    def end_call(self, call_id: int, attempt: int) -> bool:
        """Send the text of this call that is still in the pipes. Call 0 is the slot itself.

        Returns:
            True if there was text, or if the call has closed a pipe: its result must then follow over the stream.
        """
        for stream in self._streams:
            try:
                stream.flush()
            except (OSError, ValueError):
                continue  # a call has closed the stream
        found = self._poll.poll(0)
        if not found:
            return False
        has_turn = self._pipes.wait_for_turn()
        for fd, _ in found:
            for frame in self._pipes.frames(fd, call_id, attempt, self._pid):
                self._agent.send(frame)
            if fd not in self._pipes.sources:
                self._poll.unregister(fd)
        if has_turn:
            self._pipes.give_turn()
        return True

    def wait_for_agent(self) -> None:
        """Wait until the agent knows that the slot is ready. Text that is written from now on belongs to a call."""
        self._agent.receive_into(memoryview(bytearray(HEADER_SIZE)))


def _by_lines(fd: int) -> TextIOWrapper:
    """Open a UTF-8 stream that writes each complete line. The agent's own stream may be block-buffered."""
    return open(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _c_streams_by_lines() -> None:
    """Make the C library's stdout line-buffered: without a terminal it buffers kilobytes (Linux)."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    library = ctypes.CDLL(None)
    try:
        library.setvbuf(ctypes.c_void_p.in_dll(library, "stdout"), None, BY_LINES, 0)
    except (ValueError, AttributeError):
        return  # this C library lacks these names
