"""The calls of an `amap`: a task of an asyncio event loop waits for their results."""

from __future__ import annotations

from collections import deque

from dragonfly_executor.engine.awaiting import resuming, running_loop
from dragonfly_executor.engine.map_calls import MapCall, MapCalls
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

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
        self._waker, self._resume = self._engine.waker_of(loop), resuming(resumed)
        try:
            # The engine sets `is_settled` before it looks whether a task waits. So either this task sees the outcome,
            # or the engine sees that this task waits.
            if not self._begin_wait():
                await resumed
        finally:
            self._end_wait()

    def _begin_wait(self) -> bool:
        """Have the engine call `wake` at the next change. Returns True if there has been one."""
        self.awaited = self.pending[0] if self.pending else None
        return self.awaited is not None and self.awaited.is_settled

    def _end_wait(self) -> None:
        self.awaited = None

    def wake(self) -> None:
        """Resume the task that waits. Only the engine thread calls this."""
        self._end_wait()
        if self._waker is not None and self._resume is not None:
            self._waker.add(self._resume)

    def changed(self) -> None:
        """Resume the task that waits, if there is one. Only the thread of its loop calls this."""
        if self._resume is not None:
            self._resume()


class UnorderedCall(MapCall):
    """One call of an `amap` whose results come as they end."""

    __slots__ = ()
    owner: UnorderedCalls

    def settle(self, outcome: object) -> None:
        """Keep the outcome, and resume the task that waits. Runs on the engine thread."""
        self.outcome = outcome
        self.is_settled = True
        owner = self.owner
        owner.settled += 1
        owner.ended.append(self)
        if owner.is_awaited:
            owner.wake()


class OpenCalls(dict[MapCall, None]):
    """Calls in order, from which any can be taken. It has the methods of a deque that `MapCalls` uses."""

    def append(self, call: MapCall) -> None:
        """Add a call."""
        self[call] = None

    def extend(self, calls: Iterable[MapCall]) -> None:
        """Add calls."""
        self.update(dict.fromkeys(calls))


class UnorderedCalls(AwaitedCalls):
    """The calls of one `amap` whose results come as they end.

    Attributes:
        ended: the calls that have ended and were not taken. The engine thread appends to it.
        is_awaited: whether the task waits.
    """

    call_type = UnorderedCall

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.pending: OpenCalls = OpenCalls()  # type: ignore[assignment]
        self.ended: deque[MapCall] = deque()
        self.is_awaited = False

    def ended_call(self) -> MapCall | None:
        """Return a call that has ended, and forget the call. None if no call has ended.

        An error of the items' iterator is returned last.
        """
        if self.ended:
            call = self.ended.popleft()
        elif len(self.pending) == 1 and (last := next(iter(self.pending))).is_settled and not last.size:
            call = last
        else:
            return None
        self.pending.pop(call, None)
        return call

    def _accept(self, calls: Sequence[MapCall]) -> None:
        # Those that could not be encoded have ended.
        self.ended.extend(call for call in calls if call.is_settled)
        super()._accept(calls)

    def _begin_wait(self) -> bool:
        self.is_awaited = True
        return bool(self.ended)

    def _end_wait(self) -> None:
        self.is_awaited = False
