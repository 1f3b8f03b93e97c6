"""Submits that most programs do not make: of calls with futures among their arguments, bounded, or with a context."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dragonfly_executor.engine.dependent_calls import dependent_call
from dragonfly_executor.errors import CallSerializationError
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.core.calls import Call
    from dragonfly_executor.engine.engine import Engine
    from dragonfly_executor.engine.future import Future
    from dragonfly_executor.engine.observing.call_carrier import CallCarrier
    from dragonfly_executor.engine.options import CallOptions


class SpecialSubmit:
    """The submit of one call.

    Args:
        engine, options, name: of the call.
        args, kwargs: its arguments.
    """

    def __init__(
        self, engine: Engine, options: CallOptions, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._engine = engine
        self._options = options
        self._name = name
        self._args = args
        self._kwargs = kwargs
        self._accept: Callable[[Sequence[Call]], object] = engine.accept
        self._held: list[Call] | None = None
        self._begin: Callable[[], object] | None = None

    def submit(self, pool: str, carrier: CallCarrier | None, fn: Callable[..., Any]) -> Future[Any]:
        """Submit the call in a thread. With a bound on the waiting calls, the thread waits for room, or gets an error.

        Args:
            pool: the pool's name.
            carrier: carries the caller's context; None if there is none.
            fn: the function.
        """
        options = self._options
        if options.max_queued is not None:
            bound = self._engine.core_observers.queue_bound()
            at_most, waits = options.max_queued, options.when_full == "wait"
            self._accept = lambda calls: bound.submit(calls, at_most, waits=waits)
        return self._carried(pool, carrier, fn)

    async def submit_in_task(
        self, pool: str, carrier: CallCarrier | None, fn: Callable[..., Any], at_most: int
    ) -> Future[Any]:
        """Submit the call in a task, which waits until fewer than `at_most` calls wait."""
        held: list[Call] = []
        self._accept, self._held = held.extend, held
        bound = self._engine.core_observers.queue_bound()
        future = self._carried(pool, carrier, fn)
        try:
            await bound.submit_async(held, at_most)
            if self._begin is not None:
                self._begin()
        except BaseException:
            future.cancel()
            raise
        return future

    def _carried(self, pool: str, carrier: CallCarrier | None, fn: Callable[..., Any]) -> Future[Any]:
        return self._submit(fn) if carrier is None else carrier.submit(pool, self._name, fn, self._submit)

    def _submit(self, fn: Callable[..., Any]) -> Future[Any]:
        """Encode and submit the call of this function."""
        engine, options = self._engine, self._options
        try:
            parts = engine.codec.encode_call(fn, self._args, self._kwargs, options.retry_on)
        except CallSerializationError:
            future = self.submit_dependent(fn)
            if future is None:
                raise
            return future
        return engine.submit(
            parts,
            options.limits(),
            name=self._name,
            cancel_running=options.cancel_running,
            accept=self._accept,
            on_progress=options.on_progress,
        )

    def submit_dependent(self, fn: Callable[..., Any]) -> Future[Any] | None:
        """Submit the call if futures are its only parts that cannot be pickled. Returns None if there is none."""
        dependent = dependent_call(self._engine, self._options, fn, self._args, self._kwargs)
        if dependent is None:
            return None
        future, call, wait = dependent
        call.name = self._name
        self._accept((call,))
        if self._held is not None:
            self._begin = wait.begin
            return future
        try:
            wait.begin()
        except BaseException:  # an interrupt
            future.cancel()
            raise
        return future
