"""Reads what the agent sends to a slot that has stand-ins: replies for any thread, and frames for the slot itself."""

from __future__ import annotations

import os
from _queue import Empty, SimpleQueue  # `queue` imports threading
from _thread import start_new_thread

from dragonfly_executor.protocol.frames import Decoder, Frame, Kind
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragonfly_executor.runner.agent_stream import AgentStream

READ_SIZE = 64 * 1024


class ReplyTarget:
    """The receiver of a reply."""

    __slots__ = ("arrived", "data", "is_error")

    def __init__(self) -> None:
        self.arrived = bytearray()
        """The parts of a long reply that have arrived."""
        self.data: bytes | None = None
        self.is_error = False

    def wake(self) -> None:
        """Go on: the reply is complete. Called on the thread of the `ReplyReader`."""
        raise NotImplementedError


class ReplyReader:
    """A thread that reads the stream from the agent, from now on.

    A thread that waits for a reply must not read itself: a signal handler of the user's may raise in the middle of a
    frame. Signal handlers run on the main thread only. The slot's main thread must not be reading now.

    Args:
        agent: the stream.
        on_reply: gets the frames that are replies, on this thread.
    """

    def __init__(self, agent: AgentStream, on_reply: Callable[[Frame], object]) -> None:
        self._agent = agent
        self._on_reply = on_reply
        self._others: SimpleQueue[bytes] = SimpleQueue()
        self._rest = memoryview(b"")
        agent.receive = self._receive
        start_new_thread(self._run, ())

    def _run(self) -> None:
        decoder = Decoder()
        while data := self._agent.read(READ_SIZE):
            for frame in decoder.feed(data):
                if frame.kind == Kind.OBJECT_REPLY:
                    self._on_reply(frame)
                else:
                    self._others.put(frame.raw)
        # The agent is gone.
        os._exit(1)

    def _receive(self, view: memoryview, _: int, flags: int) -> int:
        """Copy the next bytes of frames that are no replies into `view`. Return their number.

        Raises:
            BlockingIOError: there are none, and `flags` is not 0 (``MSG_DONTWAIT``).
        """
        if not self._rest:
            try:
                self._rest = memoryview(self._others.get(not flags))
            except Empty:
                raise BlockingIOError from None
        size = min(len(view), len(self._rest))
        view[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size
