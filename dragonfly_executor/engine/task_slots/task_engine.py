"""`TaskEngine`: the engine of a pool as calls that share slots use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from dragonfly_executor.core import events
from dragonfly_executor.core.calls import QUEUED, Call, CallLimits
from dragonfly_executor.engine.core_observers import CoreObservers
from dragonfly_executor.engine.engine_view import EngineView
from dragonfly_executor.engine.function_calls import FunctionCalls
from dragonfly_executor.engine.future import Future
from dragonfly_executor.engine.submit_queue import SubmitQueue
from dragonfly_executor.engine.task_slots.task_pool import TaskPool
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Future as BaseFuture
    from typing import Any, TypeVar

    from dragonfly_executor.core.machine import Machine
    from dragonfly_executor.core.shutdown_mode import ShutdownMode
    from dragonfly_executor.core.stats import PoolStats
    from dragonfly_executor.engine.context import TaskContext
    from dragonfly_executor.protocol.call_progress import CallProgress
    from dragonfly_executor.serialization.layout import Buffer

    T = TypeVar("T")


class TaskEngine(EngineView):
    """The object that futures, maps and submits use in place of an `Engine`. Any thread may call its first part.

    Args:
        engine: the pool's engine.
        concurrency: number of calls in a slot.
        limits: what a slot requires of its runner, and its priority.
    """

    def __init__(self, engine: TaskContext, concurrency: int, limits: CallLimits) -> None:
        super().__init__(engine)
        self._engine = engine
        self.options, self.codec, self.tiers = engine.options, engine.codec, engine.tiers
        self.payloads, self.shared, self.wakers = engine.payloads, engine.shared, engine.wakers
        self.ids: Iterator[int] = engine.ids
        self.function_calls = FunctionCalls(self)
        self._queue = SubmitQueue()
        self.core_observers = CoreObservers(self, self._queue)
        self.pool = TaskPool(engine, concurrency, limits)
        self._is_begun = False
        self._taken: list[Call] = []

    # -- calls ---------------------------------------------------------------------------------------------------------

    def submit(
        self,
        parts: Sequence[Buffer],
        limits: CallLimits,
        *,
        name: str = "",
        cancel_running: bool = True,
        accept: Callable[[Sequence[Call]], object] | None = None,
        on_progress: Callable[[CallProgress], object] | None = None,
    ) -> Future[Any]:
        """Accept a call; see `Engine.submit`."""
        future: Future[Any] = Future(self)
        call = future.call = Call(next(self.ids), self.payloads.snapshot(parts), future, limits)
        call.name = name
        if not cancel_running:
            future.cancels_running = False
        if on_progress is not None:
            future.on_progress = on_progress
        (accept or self.accept)((call,))
        return future

    def accept(self, calls: Sequence[Call]) -> None:
        """Accept new calls, all or none. Raises as `submit` does."""
        self.prepare()
        self.append(calls)

    def prepare(self) -> None:
        """See `Engine.prepare`."""
        self._engine.prepare()

    def append(self, calls: Sequence[Call]) -> None:
        """Accept new calls after `prepare`. This does not block."""
        self.check_open()
        try:
            self._queue.append(calls)
            self._engine.on_thread(lambda _: self._take())
            # The pool refuses calls first, and takes those that it has accepted after that.
            if not self._engine.is_open() and self._queue.withdraw(calls):
                self.check_open()
        except BaseException:
            self._queue.withdraw(calls)
            raise

    def check_open(self) -> None:
        """Raise the error that a submit would raise now."""
        self._engine.check_open()

    def cancel(self, calls: Sequence[Call], *, running: bool = True) -> None:
        """Stop calls that were cancelled; without `running`, only those that were not sent to a slot yet."""
        self.on_thread(lambda _: self._cancel(calls, running))

    def _cancel(self, calls: Sequence[Call], running: bool) -> None:
        ids = [call.id for call in calls if running or (call.state is QUEUED and call.attempt == 1)]
        self._handle_behind_submits(events.CancelRequested(ids))

    def call_back(self, callback: Callable[[Any], object], future: BaseFuture[Any]) -> None:
        """Run a done callback on the callback thread."""
        self._engine.call_back(callback, future)

    def on_thread(self, job: Callable[[Any], object]) -> None:
        """See `Engine.on_thread`."""
        self._engine.on_thread(job)

    def post(self, event: object) -> None:
        """Hand the core of the calls an event, on the engine thread."""
        self.on_thread(lambda _: self._handle_behind_submits(event))

    post_behind_submits = post

    def ask(self, question: Callable[[Machine], T]) -> T:
        """Return the answer to a question about the core of the calls."""
        return self._engine.ask(lambda _: question(self.pool.machine))

    def stats(self) -> PoolStats:
        """Return the statistics of the pool."""
        return self._engine.stats()

    # -- the engine thread ---------------------------------------------------------------------------------------------

    def _handle_behind_submits(self, event: object) -> None:
        self._take()
        self.pool.handle(event)

    def _take(self) -> None:
        if not self._is_begun:
            self._is_begun = True
            self._engine.at_shut_down.append(self._shut_down)
            self.pool.begin(
                self.core_observers,
                self._engine.notes_of_calls(self.pool.machine, self.pool.runner_of),
                self._engine.is_open,
            )
        calls: list[Call] = []
        self._taken = calls
        self.core_observers.take(calls)
        if calls:
            self.pool.handle(events.Submitted(calls))
        self._taken = []

    def _shut_down(self, mode: ShutdownMode) -> None:
        self._take()
        self.pool.shut_down(mode)

    def fail(self, error: Exception) -> None:
        """Fail all calls, because the engine has failed."""
        if self._is_begun:
            self.pool.fail(error, self._queue, self._taken)
