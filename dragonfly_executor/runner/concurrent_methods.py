"""Runs several methods of a placed worker at once: coroutines in the slot's loop, all others in threads."""

from __future__ import annotations

from functools import partial
from types import CoroutineType

from dragonfly_executor.runner import slot_shutdown
from dragonfly_executor.runner.call_loop import CallLoop
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor
    from typing import Any

    from dragonfly_executor.runner.call_loop import LoopChannel


def serve_many(channel: LoopChannel, target: Any, concurrency: int) -> None:
    """Run methods of an object, `concurrency` at once, until the parent stops the worker."""
    channel.run_coroutine(_serve(channel, target, concurrency))


async def _serve(channel: LoopChannel, target: Any, concurrency: int) -> None:
    # Imported here, because only slots with such a worker need them.
    from asyncio import get_running_loop
    from concurrent.futures import ThreadPoolExecutor

    loop = get_running_loop()
    with ThreadPoolExecutor(concurrency, "dragonfly-method") as threads:
        await CallLoop(
            channel, concurrency, lambda *started: loop.create_task(_run(channel, target, threads, *started))
        ).run()


async def _run(
    channel: LoopChannel, target: Any, threads: ThreadPoolExecutor, number: int, call: tuple[Any, ...], since: float
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
