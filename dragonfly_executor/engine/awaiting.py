"""`await` of a call's future: the engine wakes the event loop, and no thread waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any, Protocol, TypeVar

    from dragonfly_executor.engine.loop_waker import LoopWaker

    T_co = TypeVar("T_co", covariant=True)

    class AwaitedFuture(Protocol[T_co]):
        """The future of a call, as a task that awaits it uses it."""

        def done(self) -> bool: ...
        def cancelled(self) -> bool: ...
        def result(self) -> T_co: ...
        def waker_of(self, loop: asyncio.AbstractEventLoop) -> LoopWaker: ...
        def add_waiter(self, waiter: object) -> bool: ...
        def remove_waiter(self, waiter: object) -> None: ...
        def cancel_linked(self) -> None: ...


class LoopWaiter:
    """A waiter among those of a future. It stands where `concurrent.futures.wait` has a waiter of a thread."""

    __slots__ = ("_resume", "_waker")

    def __init__(self, waker: LoopWaker, resume: Callable[[], object]) -> None:
        self._waker = waker
        self._resume = resume

    def add_result(self, future: object) -> None:
        """Note that the future is done. Runs on the engine thread."""
        self._waker.add(self._resume)

    add_exception = add_cancelled = add_result


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the asyncio event loop that runs in this thread.

    Raises:
        RuntimeError: none runs.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "only a task of a running asyncio event loop can await a call, and none runs in this thread; "
            "for Trio see docs/asyncio.md"
        ) from None


def resuming(waiter: asyncio.Future[None]) -> Callable[[], None]:
    """Return a function that resumes the task that awaits `waiter`, unless the task was cancelled or resumed."""

    def resume() -> None:
        if not waiter.done():
            waiter.set_result(None)

    return resume


def await_future(future: AwaitedFuture[T_co]) -> Generator[Any, None, T_co]:
    """Wait in a task until a future is done, then return its value or raise its error.

    If the task is cancelled, or ends because its loop does, the call is cancelled.

    Raises:
        asyncio.CancelledError: the future was cancelled.
        RuntimeError: no asyncio event loop runs here.
        ForkedExecutorError: the call belongs to the process that this one was forked from.
    """
    if not future.done():
        loop = running_loop()
        resumed = loop.create_future()
        waiter = LoopWaiter(future.waker_of(loop), resuming(resumed))
        try:
            if future.add_waiter(waiter):
                yield from resumed.__await__()
        except BaseException:
            future.cancel_linked()
            raise
        finally:
            future.remove_waiter(waiter)  # it holds the loop
    if future.cancelled():
        raise asyncio.CancelledError
    return future.result()
