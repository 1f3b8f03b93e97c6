"""Runs several methods of a placed worker at once: coroutines in the slot's loop, all others in threads."""

from __future__ import annotations

from _queue import Empty  # `queue` imports threading
from functools import partial
from types import CoroutineType

from dragonfly_executor.runner import slot_shutdown
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from concurrent.futures import ThreadPoolExecutor
    from typing import Any

    class Channel(Protocol):
        """The messages of the worker, as `MethodChannel` has them."""

        def run_coroutine(self, coroutine: Any) -> Any: ...
        def when_due(self, callback: Callable[[], object]) -> None: ...
        def take(self, *, wait: bool) -> Any: ...
        def decode(self, message: Any) -> tuple[int, tuple[Any, ...], float] | None: ...
        def finish(
            self, number: int, since: float, value: Any, error: BaseException | None, retryable: bool
        ) -> None: ...


def serve_many(channel: Channel, target: Any, concurrency: int) -> None:
    """Run methods of an object, `concurrency` at once, until the parent stops the worker."""
    channel.run_coroutine(_serve(channel, target, concurrency))


async def _serve(channel: Channel, target: Any, concurrency: int) -> None:
    # Imported here, because only slots with such a worker need them.
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    loop = asyncio.get_running_loop()
    due, free = asyncio.Event(), asyncio.Semaphore(concurrency)
    channel.when_due(lambda: loop.call_soon_threadsafe(due.set))
    with ThreadPoolExecutor(concurrency, "dragonfly-method") as threads:
        tasks: set[asyncio.Task[None]] = set()
        while True:
            await free.acquire()
            # Cleared before the look, so that a call that comes after it sets the event again.
            due.clear()
            try:
                message = channel.take(wait=False)
            except Empty:
                free.release()
                await due.wait()
                continue
            if message is None:
                break
            started = channel.decode(message)
            if started is None:
                free.release()
                continue
            task = loop.create_task(_run(channel, target, threads, *started))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            task.add_done_callback(lambda _: free.release())
            # The task gets the call to itself, and begins it before the next call is taken.
            del message, started, task
            await asyncio.sleep(0)


async def _run(
    channel: Channel, target: Any, threads: ThreadPoolExecutor, number: int, call: tuple[Any, ...], since: float
) -> None:
    """Run one method, and answer it."""
    from asyncio import get_running_loop
    from inspect import iscoroutinefunction

    fn, args, kwargs, retry_on = call
    value, failure = None, None
    name = args[0] if args and type(args[0]) is str else ""  # calls of an object that stays have that object first
    try:
        if iscoroutinefunction(getattr(target, name, None)):
            value = fn(target, *args, **kwargs)
        else:
            method = partial(_in_thread, fn, target, args, kwargs)
            value = await get_running_loop().run_in_executor(threads, method)
            del method
        if type(value) is CoroutineType:
            value = await value
    except BaseException as error:
        failure = error
    del call, args, kwargs
    channel.finish(number, since, value, failure, bool(retry_on) and isinstance(failure, retry_on))
    del value, failure
    slot_shutdown.flush_standard_streams()


def _in_thread(fn: Any, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a method in a thread. A StopIteration cannot be the exception of an asyncio future."""
    try:
        return fn(target, *args, **kwargs)
    except StopIteration as error:
        raise RuntimeError("the method raised StopIteration") from error
