"""The calls of an `amap`: a task of an asyncio event loop waits for their results."""

from __future__ import annotations

from dragonfly_executor.engine.awaiting import resuming, running_loop
from dragonfly_executor.engine.map_call import MapCall
from dragonfly_executor.engine.map_calls import MapCalls
from dragonfly_executor.engine.unordered_calls import UnorderedMapCalls
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragonfly_executor.engine.loop_waker import LoopWaker


class AwaitedCalls(MapCalls):
    """The calls of one `amap` with results in order, and the one task that waits for them."""

    _waker: LoopWaker | None = None
    _resume: Callable[[], None] | None = None

    def ended_call(self) -> MapCall | None:
        """Return the call whose result is next, and forget the call. None if it has not ended, or there is none."""
        pending = self.pending
        return pending.popleft() if pending and pending[0].is_settled else None

    async def wait_for_change(self) -> None:
        """Wait until `ended_call` may have something to return, or until `changed`. It may return without a reason.

        Raises:
            ForkedExecutorError: the calls belong to the process that this one was forked from.
        """
        self._check_process()
        loop = running_loop()
        resumed = loop.create_future()
        self._waker, self._resume = self._engine.wakers.of(loop), resuming(resumed)
        try:
            # The engine sets `is_settled` before it looks whether a task waits. So either this task sees the outcome,
            # or the engine sees that this task waits.
            if not self._begin_wait():
                await resumed
        finally:
            self.awaited = None

    def _begin_wait(self) -> bool:
        """Have the engine call `wake` at the next change. Returns True if there has been one."""
        self.awaited = self.pending[0] if self.pending else None
        return self.awaited is not None and self.awaited.is_settled

    def wake(self) -> None:
        """Resume the task that waits. Only the engine thread calls this."""
        self.awaited = None
        if self._waker is not None and self._resume is not None:
            self._waker.add(self._resume)

    def changed(self) -> None:
        """Resume the task that waits, if there is one. Only the thread of its loop calls this."""
        if self._resume is not None:
            self._resume()


class UnorderedAwaitedCalls(UnorderedMapCalls, AwaitedCalls):  # pyright: ignore[reportIncompatibleVariableOverride]
    """The calls of one `amap` whose results come as they end."""

    def _begin_wait(self) -> bool:
        self.awaited = self.any_call
        return self.any_call.is_settled
