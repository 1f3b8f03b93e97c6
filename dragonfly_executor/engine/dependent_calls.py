"""Calls with futures among their arguments: they are accepted at once, and queued when all values are there."""

from __future__ import annotations

from concurrent.futures import Future as BaseFuture
from itertools import count

from dragonfly_executor.core.actions import CANCELLED
from dragonfly_executor.core.calls import DependentCall
from dragonfly_executor.core.events import ArgumentsFailed, ArgumentsReady
from dragonfly_executor.engine.future import Future
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from dragonfly_executor.engine.context import DependentContext
    from dragonfly_executor.engine.options import CallOptions
    from dragonfly_executor.serialization.layout import Buffer
    from dragonfly_executor.serialization.pending_call import PendingCall


def is_future(found: object) -> bool:
    """Return whether an object is a future whose value a call can get."""
    return isinstance(found, BaseFuture)


class DependentSubmit:
    """The submit of a call that waits for the values of futures. It occupies no slot and no thread meanwhile.

    It is a waiter of each of these futures, as `concurrent.futures.wait` has one. Their threads only count. A worker
    thread of the pool then encodes the values, because that runs the user's code.

    Args:
        engine: runs the call.
        options: the call's.
        pending: the encoded call.

    Attributes:
        future: the future of the call.
        call: the core's record of it. Both are there until `begin`, and no longer than the call waits.
    """

    def __init__(self, engine: DependentContext, options: CallOptions, pending: PendingCall) -> None:
        self._engine = engine
        self._pending: PendingCall | None = pending
        self._total = len(pending.futures)
        self._done = count(1)
        self._ends = iter((True,))
        limits = options.limits().dependent()
        self.future: Future[Any] = Future(engine)
        self.call = self.future.call = DependentCall(next(engine.ids), b"", self.future, limits, limits.kind)
        if not options.cancel_running:
            self.future.cancels_running = False
        if options.on_progress is not None:
            self.future.on_progress = options.on_progress

    def begin(self) -> None:
        """Wait for the futures, once the call was accepted. If this is interrupted, the call is cancelled."""
        own = self.future
        try:
            for future in self._futures():
                if not isinstance(future, Future):
                    future.add_done_callback(self._settled)
                elif not future.add_waiter(self):
                    self._settled(future)
        except BaseException:
            own.cancel()
            raise

    def _futures(self) -> list[BaseFuture[Any]]:
        return [] if self._pending is None else [*self._pending.futures.values()]

    # -- a waiter of the futures, on whichever thread settles them: no step may raise ----------------------------------

    def add_result(self, future: BaseFuture[Any]) -> None:
        """Count a future that has its value. `Future` calls this."""
        if next(self._done) == self._total:
            self._end()

    def add_exception(self, future: BaseFuture[Any]) -> None:
        """End with the first future that has no value. `Future` calls this."""
        self._end()

    add_cancelled = add_exception

    def _settled(self, future: BaseFuture[Any]) -> None:
        """Count a future that is done."""
        has_value = future.has_value if isinstance(future, Future) else _has_value(future)
        self.add_result(future) if has_value else self.add_exception(future)

    def _end(self) -> None:
        if next(self._ends, False):
            self._engine.on_thread(lambda components: components.argument_threads().run(self._deliver))

    # -- on a worker thread --------------------------------------------------------------------------------------------

    def _deliver(self) -> None:
        """Hand the engine the complete call, or the error of a future."""
        futures, pending, call, own = self._futures(), self._pending, self.call, self.future
        # Futures that are done keep their waiters, and must not keep the calls that have waited for them.
        self._pending = None
        del self.call, self.future
        for future in futures:
            if isinstance(future, Future) and not future.done():
                future.remove_waiter(self)
        if pending is None or own.done():
            return
        outcome = _first_failure(futures)
        try:
            if outcome is None:
                call.payload = self._engine.payloads.snapshot(self._encoded(pending))
        except Exception as error:  # a value that cannot be pickled again
            outcome = error
        event = ArgumentsReady(call.id) if outcome is None else ArgumentsFailed(call.id, outcome)
        self._engine.post_behind_submits(event)

    def _encoded(self, pending: PendingCall) -> list[Buffer]:
        shared = self._engine.shared
        contents = {
            number: shared.value_of(future, future.result(), number) for number, future in pending.futures.items()
        }
        return self._engine.codec.complete(pending, contents)


def _has_value(future: BaseFuture[Any]) -> bool:
    return not future.cancelled() and future.exception() is None


def _first_failure(futures: Iterable[BaseFuture[Any]]) -> object:
    """Return the error of the first future that has one, or `CANCELLED`; None if none has failed."""
    for future in futures:
        if future.cancelled():
            return CANCELLED
        if future.done() and (error := future.exception()) is not None:
            return error
    return None


def dependent_submit(
    engine: DependentContext,
    options: CallOptions,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> DependentSubmit | None:
    """Return the submit of a call that was found to have parts that cannot be pickled; None if no part is a future.

    Raises:
        CallSerializationError: another part cannot be pickled.
    """
    pending = engine.codec.encode_pending(fn, args, kwargs, options.retry_on, is_future)
    return None if pending is None else DependentSubmit(engine, options, pending)
