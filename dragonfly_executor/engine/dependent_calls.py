"""Calls with futures among their arguments: they are accepted at once, and go on when all values are there."""

from __future__ import annotations

from concurrent.futures import Future as BaseFuture
from itertools import count

from dragonfly_executor.core.actions import CANCELLED
from dragonfly_executor.core.calls import SETTLED, Call
from dragonfly_executor.core.events import ArgumentsFailed, ArgumentsReady
from dragonfly_executor.engine.future import Future
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from dragonfly_executor.core.calls import Payload
    from dragonfly_executor.engine.context import ArgumentContext, DependentContext
    from dragonfly_executor.engine.options import CallOptions
    from dragonfly_executor.serialization.layout import Buffer
    from dragonfly_executor.serialization.pending_call import PendingCall


class ArgumentReceiver(Protocol):
    """A call that was accepted and has no payload yet. A worker thread of the pool calls these methods."""

    def is_over(self) -> bool:
        """Return whether the call has ended, so that it needs no arguments."""
        ...

    def arguments_came(self, payload: Payload) -> None:
        """Let the call go on with its payload."""

    def arguments_failed(self, outcome: object) -> None:
        """End the call. `outcome`: the error of a future, the error of an encoding, or `CANCELLED`."""


class ArgumentWait:
    """The wait of a call for the values of futures. It occupies no slot and no thread.

    It is a waiter of each of these futures, as `concurrent.futures.wait` has one. Their threads only count. A worker
    thread of the pool then encodes the values, because that runs the user's code.

    Args:
        engine: the pool's.
        pending: the encoded call.
        call: gets the payload.
    """

    def __init__(self, engine: ArgumentContext, pending: PendingCall, call: ArgumentReceiver) -> None:
        self._engine = engine
        self._pending: PendingCall | None = pending
        self._call: ArgumentReceiver | None = call
        self._total = len(pending.futures)
        self._done = count(1)
        self._ends = iter((True,))

    def begin(self) -> None:
        """Wait for the futures, once the call was accepted. If this is interrupted, the caller cancels the call."""
        if not self._engine.shared.has_values:
            self._engine.shared.has_values = True
            self._engine.on_thread(lambda components: components.runner_links.keep_results())
        for future in self._futures():
            if not isinstance(future, Future):
                future.add_done_callback(self._settled)
            elif not future.add_waiter(self):
                self._settled(future)

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
        """Complete the call, or end it with the error of a future."""
        futures, pending, call = self._futures(), self._pending, self._call
        # Futures that are done keep their waiters, and must not keep the calls that have waited for them.
        self._pending = self._call = None
        for future in futures:
            if isinstance(future, Future) and not future.done():
                future.remove_waiter(self)
        if pending is None or call is None or call.is_over():
            return
        outcome = _first_failure(futures)
        if outcome is None:
            try:
                payload = self._engine.payloads.snapshot(self._encoded(pending))
            except Exception as error:  # a value that cannot be pickled again
                outcome = error
            else:
                call.arguments_came(payload)
                return
        call.arguments_failed(outcome)

    def _encoded(self, pending: PendingCall) -> list[Buffer]:
        codec, shared = self._engine.codec, self._engine.shared
        contents = {}
        for number, future in pending.futures.items():
            unopened = future.unopened(codec) if isinstance(future, Future) else None
            contents[number] = shared.value_of(future, number, unopened)
        return codec.complete(pending, contents)


def _has_value(future: BaseFuture[Any]) -> bool:
    return not future.cancelled() and future.exception() is None


def _first_failure(futures: Iterable[BaseFuture[Any]]) -> object:
    """Return the error of the first future that has one, or `CANCELLED`; None if none has failed."""
    for future in futures:
        if future.cancelled():
            return CANCELLED
        if isinstance(future, Future) and future.has_value:
            continue  # its value may stay unopened
        if future.done() and (error := future.exception()) is not None:
            return error
    return None


class HeldCall(ArgumentReceiver):
    """A call of the core's, which holds it until its arguments are there.

    Args:
        engine: runs the call.
        call: the core's record of it, which is not submitted yet.
    """

    def __init__(self, engine: ArgumentContext, call: Call) -> None:
        self._engine = engine
        self._call = call
        call.wait_for_arguments()

    def is_over(self) -> bool:
        """See `ArgumentReceiver`."""
        return self._call.state is SETTLED

    def arguments_came(self, payload: Payload) -> None:
        """See `ArgumentReceiver`."""
        self._call.payload = payload
        self._engine.post_behind_submits(ArgumentsReady(self._call.id))

    def arguments_failed(self, outcome: object) -> None:
        """See `ArgumentReceiver`."""
        self._engine.post_behind_submits(ArgumentsFailed(self._call.id, outcome))


def dependent_call(
    engine: DependentContext,
    options: CallOptions,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> tuple[Future[Any], Call, ArgumentWait] | None:
    """Return the future of a call whose arguments cannot be pickled, the call, and its wait, which is to begin when the
    call is submitted. Returns None if no argument is a future.

    Raises:
        CallSerializationError: another part of the call cannot be pickled.
    """
    pending = engine.codec.encode_pending(fn, args, kwargs, options.retry_on)
    if pending is None:
        return None
    limits = options.limits()
    future: Future[Any] = Future(engine)
    call = future.call = Call(next(engine.ids), b"", future, limits, limits.kind)
    if not options.cancel_running:
        future.cancels_running = False
    if options.on_progress is not None:
        future.on_progress = options.on_progress
    return future, call, ArgumentWait(engine, pending, HeldCall(engine, call))
