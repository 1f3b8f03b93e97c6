"""A slot lends itself while its call waits for calls that it has submitted."""

from __future__ import annotations

from _thread import allocate_lock

from dragonfly_executor.protocol.frames import Flag, Kind, encode
from dragonfly_executor.runner.agent_stream import NO_CALL
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.runner.agent_stream import AgentStream


class SlotLoan:
    """Tells agent and parent while the slot's call waits for child calls. Any thread of the call.

    Args:
        agent: the stream to the agent.
    """

    def __init__(self, agent: AgentStream) -> None:
        self._agent = agent
        self._lock = allocate_lock()
        self._ref = NO_CALL
        self._waiting = 0
        """Number of threads and tasks of that call that wait."""

    def begin(self) -> tuple[int, int]:
        """Note that a thread or a task waits. Returns the call, for `end`."""
        with self._lock:
            running = self._agent.running
            if running is not self._ref:
                # What an earlier call has left behind does not count: the call has ended.
                self._ref, self._waiting = running, 0
            self._waiting += 1
            if self._waiting == 1 and running is not NO_CALL and self._agent.is_here():
                self._agent.send(encode(Kind.WAIT, running[0], attempt=running[1]))
            return running

    def end(self, ref: tuple[int, int]) -> None:
        """Note the end of a wait. `ref`: what `begin` returned."""
        with self._lock:
            if ref is not self._ref:
                return
            self._waiting -= 1
            if not self._waiting and ref is self._agent.running and ref is not NO_CALL and self._agent.is_here():
                self._agent.send(encode(Kind.WAIT, ref[0], attempt=ref[1], flags=Flag.END))
