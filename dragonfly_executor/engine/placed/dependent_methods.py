"""Placed workers, and calls of their methods, with futures among their arguments."""

from __future__ import annotations

from concurrent.futures import CancelledError

from dragonfly_executor.core.actions import CANCELLED
from dragonfly_executor.engine.dependent_calls import ArgumentReceiver, ArgumentWait, HeldCall
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragonfly_executor.core.calls import Payload
    from dragonfly_executor.engine.context import WorkerContext
    from dragonfly_executor.engine.placed.method_call import MethodCall
    from dragonfly_executor.engine.placed.method_dispatch import MethodDispatch
    from dragonfly_executor.engine.placed.placed_call import PlacedCall
    from dragonfly_executor.serialization.pending_call import PendingCall


class WorkerOfCalls(Protocol):
    """The worker, from any thread."""

    def change_methods(self, change: Callable[[MethodDispatch], object]) -> None:
        """Change its method calls on the engine thread."""

    def complete(self, payload: Payload) -> None:
        """Set the payload of its call, for each of its runs."""


class HeldMethod(ArgumentReceiver):
    """A method call that waits for futures. It keeps its place among the calls of the worker.

    Args:
        worker: has the call.
        call: the call.
    """

    def __init__(self, worker: WorkerOfCalls, call: MethodCall) -> None:
        self._worker = worker
        self._call = call

    def is_over(self) -> bool:
        """See `ArgumentReceiver`."""
        return self._call.future.done()

    def arguments_came(self, payload: Payload) -> None:
        """See `ArgumentReceiver`."""
        self._worker.change_methods(lambda methods: methods.arguments_came(self._call, payload))

    def arguments_failed(self, outcome: object) -> None:
        """See `ArgumentReceiver`."""
        self._worker.change_methods(lambda methods: methods.arguments_failed(self._call, outcome))


class HeldWorker(HeldCall):
    """A worker that waits for futures before it begins the first time.

    Args:
        engine: the pool's.
        worker: the worker.
        call: its call, which is not submitted yet.
    """

    def __init__(self, engine: WorkerContext, worker: WorkerOfCalls, call: PlacedCall) -> None:
        super().__init__(engine, call)
        self._worker = worker

    def arguments_came(self, payload: Payload) -> None:
        """See `ArgumentReceiver`."""
        self._worker.complete(payload)
        super().arguments_came(payload)

    def arguments_failed(self, outcome: object) -> None:
        """See `ArgumentReceiver`."""
        if outcome is CANCELLED:
            outcome = CancelledError("a future among the arguments of place() was cancelled")
        super().arguments_failed(outcome)


def wait_for_method(engine: WorkerContext, pending: PendingCall, worker: WorkerOfCalls, call: MethodCall) -> None:
    """Have a method call that was submitted wait for its futures. An interrupt cancels it."""
    try:
        ArgumentWait(engine, pending, HeldMethod(worker, call)).begin()
    except BaseException:
        call.future.cancel()
        raise


def wait_of_worker(
    engine: WorkerContext, pending: PendingCall, worker: WorkerOfCalls, call: PlacedCall
) -> ArgumentWait:
    """Return the wait of a worker, which is to begin once its call is submitted."""
    return ArgumentWait(engine, pending, HeldWorker(engine, worker, call))
