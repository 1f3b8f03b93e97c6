"""`MethodCall`: one method call of a placed worker."""

from __future__ import annotations

from dragonfly_executor.core.calls import CallState
from dragonfly_executor.engine.engine_view import EngineView
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future as BaseFuture
    from typing import Any

    from dragonfly_executor.core.calls import CallLimits, Payload
    from dragonfly_executor.engine.context import WorkerContext
    from dragonfly_executor.engine.future import Future
    from dragonfly_executor.engine.loop_waker import LoopWakers
    from dragonfly_executor.engine.options import PoolOptions
    from dragonfly_executor.transport.loop import Timer


class MethodCall:
    """One method call, from its submit to its answer.

    Args:
        name: the name of the method.
        payload: the encoded call.
        limits: its limits, of which those of time and `retries` count.
        future: its future.

    Attributes:
        size: bytes of the payload.
        state: for its future: whether it runs is known from the future itself.
        timers: the timers of its limits.
        attempt: 1, plus one for each time that it was begun again.
        is_abandoned: whether its future is settled, and the slot has not answered.
        kept: objects that live until the call is settled.
        lease: makes what keeps the objects of its result that stay in the slot. It keeps the worker alive meanwhile.
        expired: its error, if its time is over and the slot has not dropped it yet.
        has_arguments: whether it has its payload. Without it, it waits for futures among its arguments.
    """

    __slots__ = (
        "attempt",
        "expired",
        "future",
        "has_arguments",
        "is_abandoned",
        "kept",
        "lease",
        "limits",
        "name",
        "payload",
        "size",
        "state",
        "timers",
    )

    def __init__(self, name: str, payload: Payload, limits: CallLimits, future: Future[Any]) -> None:
        self.name = name
        self.payload = payload
        self.limits = limits
        self.future = future
        self.size = _size(payload)
        self.state = CallState.QUEUED
        self.timers: list[Timer] = []
        self.attempt = 1
        self.is_abandoned = False
        self.expired: Exception | None = None
        self.has_arguments = True
        self.kept: object = None
        self.lease: Callable[..., Any] | None = None

    def complete(self, payload: Payload) -> None:
        """Set the payload, once the values of its futures are there."""
        self.payload, self.size, self.has_arguments = payload, _size(payload), True

    def settle(self, outcome: object) -> None:
        """Settle the future, on the engine thread. The slot does not need the payload any more."""
        self.forget()
        if not self.is_abandoned:
            self.future.settle(outcome)

    def abandon(self, error: Exception) -> None:
        """Settle the future, although the slot has not answered."""
        for timer in self.timers:
            timer.cancel()
        self.future.settle(error)
        self.is_abandoned = True

    def forget(self) -> None:
        """Let go of the payload, and of the future's reference to this call: its memory is used again at once."""
        for timer in self.timers:
            timer.cancel()
        self.timers.clear()
        self.payload = b""
        self.lease = self.kept = None
        self.future.call = None


def _size(payload: Payload) -> int:
    return len(payload) if isinstance(payload, bytes) else sum(map(len, payload))


class MethodContext(EngineView):
    """An engine, as the futures of method calls use it: a `cancel` goes to the worker.

    Args:
        engine: the pool's.
        cancelled: called with method calls whose futures were cancelled, on the thread that has cancelled them.
    """

    def __init__(self, engine: WorkerContext, cancelled: Callable[[Sequence[Any]], object]) -> None:
        super().__init__(engine)
        self._engine = engine
        self._cancelled = cancelled
        self.options: PoolOptions = engine.options
        self.wakers: LoopWakers = engine.wakers

    def cancel(self, calls: Sequence[Any]) -> None:
        """Drop method calls whose futures were cancelled."""
        self._cancelled(calls)

    def call_back(self, callback: Callable[[Any], object], future: BaseFuture[Any]) -> None:
        """Run a done callback on the callback thread."""
        self._engine.call_back(callback, future)
