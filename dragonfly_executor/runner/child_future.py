"""`LendingFuture`: the future of a call that a call has submitted. A call that waits for it lends its slot."""

from __future__ import annotations

import threading
from concurrent.futures import Future

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any, TypeVar

    from dragonfly_executor.runner.child_calls import ChildCalls
    from dragonfly_executor.runner.child_options import ChildOptions
    from dragonfly_executor.runner.slot_loan import SlotLoan

    T = TypeVar("T")
else:
    T = object

ASYNCIO = "asyncio.futures"
"""The module of the callbacks by which an asyncio future waits for another future."""


class LendingEvent(threading.Event):
    """The event of `concurrent.futures.wait` and `as_completed`. A thread that waits for it lends the slot."""

    def __init__(self, loan: SlotLoan) -> None:
        super().__init__()
        self._loan = loan

    def wait(self, timeout: float | None = None) -> bool:
        """See `threading.Event.wait`."""
        if self.is_set():
            return True
        ref = self._loan.begin()
        try:
            return super().wait(timeout)
        finally:
            self._loan.end(ref)


class Waiters(list["Any"]):
    """The waiters of a future. `wait` and `as_completed` append theirs before they wait for its event."""

    def __init__(self, loan: SlotLoan) -> None:
        super().__init__()
        self._loan = loan

    def append(self, waiter: Any) -> None:
        """See `list.append`."""
        if type(waiter.event) is threading.Event:
            waiter.event = LendingEvent(self._loan)
        super().append(waiter)


class LendingFuture(Future[T]):
    """The future of a call that a call has submitted.

    It is pending until the call has ended. `cancel` stops the call if it runs.

    Args:
        calls: submits the call.
    """

    def __init__(self, calls: ChildCalls) -> None:
        super().__init__()
        self._calls = calls
        self._number = 0
        self._waiters = Waiters(calls.loan)

    def begin(self, options: ChildOptions, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> None:
        """Submit the call. Raises as `ChildCalls.submit` does."""
        self._number = self._calls.submit(self, options, fn, args, kwargs)

    def result(self, timeout: float | None = None) -> T:
        """See `concurrent.futures.Future.result`."""
        self._wait(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """See `concurrent.futures.Future.exception`."""
        self._wait(timeout)
        return super().exception(0)

    def _wait(self, timeout: float | None) -> None:
        """Wait until the call has ended, and lend the slot meanwhile."""
        if self.done() or (timeout is not None and timeout <= 0):
            return
        ref = self._calls.loan.begin()
        try:
            with self._condition:
                self._condition.wait_for(self._has_ended, timeout)
        finally:
            self._calls.loan.end(ref)

    def _has_ended(self) -> bool:
        """Return whether the call has ended. `done` acquires the lock, which this thread has."""
        return self._state not in ("PENDING", "RUNNING")

    def cancel(self) -> bool:
        """Cancel the call, and stop it if it runs. Returns False if it has ended."""
        if self.cancelled():
            return True
        if not self._calls.cancel(self._number):
            return self.cancelled()
        # One thread alone comes here.
        self.set_cancelled()
        return True

    def set_cancelled(self) -> None:
        """Note that the call is cancelled, and tell what waits for it."""
        if super().cancel():
            self.set_running_or_notify_cancel()

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call ``fn(self)`` when the call has ended, on a thread for callbacks; at once if it has.

        If an asyncio future waits by this, the slot is lent until then.
        """
        if self.done():
            super().add_done_callback(fn)
        elif getattr(fn, "__module__", None) == ASYNCIO:
            ref = self._calls.loan.begin()
            super().add_done_callback(lambda future: self._resume_task(fn, future, ref))
        else:
            super().add_done_callback(lambda future: self._calls.call_back(lambda: fn(future)))

    def _resume_task(self, fn: Callable[[Future[T]], object], future: Future[T], ref: tuple[int, int]) -> None:
        self._calls.loan.end(ref)
        fn(future)

    def __await__(self) -> Generator[Any, None, T]:
        # Imported here, because it takes long, and a task has it.
        import asyncio

        return asyncio.wrap_future(self).__await__()
