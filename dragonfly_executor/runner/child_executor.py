"""`ChildExecutor`: the executor inside a call whose calls the parent schedules."""

from __future__ import annotations

import weakref
from concurrent.futures import Executor
from concurrent.futures import wait as wait_for

from dragonfly_executor.protocol.parent import pool_of_call
from dragonfly_executor.runner.child_future import LendingFuture
from dragonfly_executor.runner.child_options import ChildOptions
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dragonfly_executor.runner.child_calls import ChildCalls

NO_OPTIONS = ChildOptions({})


class ChildExecutor(Executor):
    """An executor whose calls go to the pool that runs the call which uses it. `Parent.pool` returns it.

    It may travel to other calls, and submits from there.

    Args:
        calls: submits them.
        options: the options of the calls.
    """

    def __init__(self, calls: ChildCalls, options: ChildOptions = NO_OPTIONS) -> None:
        self._calls = calls
        self._options = options
        self._is_shut_down = False
        self._futures: weakref.WeakSet[LendingFuture[Any]] = weakref.WeakSet()

    def __reduce__(self) -> Any:
        return _pool_with, (self._options.given,)

    def options(self, **options: Any) -> ChildExecutor:
        """Return an executor whose calls have these options as well.

        Args:
            options: ``timeout``, ``queue_timeout``, ``run_timeout``, ``retries``, ``retry_on``, ``requires``,
                ``priority`` and ``key``, as for calls of the parent. Options that are not given come from the
                pool, except that `retry_on` is empty, and `priority` comes from the submitting call.

        Raises:
            TypeError: there is no such option, or a value has the wrong type.
            ValueError: a value is out of range.
        """
        return ChildExecutor(self._calls, ChildOptions({**self._options.given, **options}))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> LendingFuture[Any]:
        """Run ``fn(*args, **kwargs)`` as a call of the pool.

        Raises:
            CallSerializationError: a part of the call cannot be pickled.
            TypeError: `fn` is a generator function.
            FrameTooLargeError: the call is larger than ``max_payload``.
            RuntimeError: this executor is shut down, or this is a process that a call has started.
        """
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: LendingFuture[Any] = LendingFuture(self._calls)
        future.begin(self._options, fn, args, kwargs)
        self._futures.add(future)
        return future

    def call(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run ``fn(*args, **kwargs)`` as a call of the pool, and return its value. Raises what it raises."""
        return self.submit(fn, *args, **kwargs).result()

    async def acall(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run ``fn(*args, **kwargs)`` as a call of the pool, and return its value in a task."""
        return await self.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls by this executor. The pool stays open, and `Parent.pool` makes another executor.

        Args:
            wait: wait for the calls that were submitted by it.
            cancel_futures: cancel those that have not ended.
        """
        self._is_shut_down = True
        futures = [future for future in list(self._futures) if not future.done()]
        if cancel_futures:
            for future in futures:
                future.cancel()
        if wait:
            wait_for(futures)


def _pool_with(options: dict[str, Any]) -> Any:
    """Return an executor of the slot that opens the pickle."""
    pool = pool_of_call()
    return pool.options(**options) if options else pool
