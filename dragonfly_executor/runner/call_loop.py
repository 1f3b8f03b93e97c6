"""Takes calls from the parent in the slot's event loop, several at once."""

from __future__ import annotations

from _queue import Empty  # `queue` imports threading

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import Any, TypeAlias

    Begin: TypeAlias = Callable[[int, tuple[Any, ...], float], asyncio.Task[None]]

    class LoopChannel(Protocol):
        """The messages of a slot whose calls run in its event loop, as `MethodChannel` has them."""

        def run_coroutine(self, coroutine: Any) -> Any: ...
        def when_due(self, callback: Callable[[], object]) -> None: ...
        def take(self, *, wait: bool) -> Any: ...
        def decode(self, message: Any) -> tuple[int, tuple[Any, ...], float] | None: ...
        def finish(
            self, number: int, since: float, value: Any, error: BaseException | None, retryable: bool
        ) -> None: ...


class CallLoop:
    """The calls that wait for their turn in the slot's event loop. It belongs to the loop's thread.

    Args:
        channel: the messages between the slot and the parent. From here on it wakes this loop.
        concurrency: number of calls that run at once.
        begin: begins a call, and returns its task. It gets what `LoopChannel.decode` returns.
    """

    def __init__(self, channel: LoopChannel, concurrency: int, begin: Begin) -> None:
        # Imported here, because only slots with such calls need it.
        import asyncio

        self._channel, self._begin, self._pause = channel, begin, asyncio.sleep
        self._due, self._free = asyncio.Event(), asyncio.Semaphore(concurrency)
        loop = asyncio.get_running_loop()
        channel.when_due(lambda: loop.call_soon_threadsafe(self._due.set))

    async def run(self) -> None:
        """Begin calls until the parent stops the slot."""
        channel, due, free = self._channel, self._due, self._free
        # The loop has only weak references to tasks.
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
                return
            started = channel.decode(message)
            if started is None:
                free.release()
                continue
            task = self._begin(*started)
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            task.add_done_callback(lambda _: free.release())
            # The task gets the call to itself, and begins it before the next call is taken.
            del message, started, task
            await self._pause(0)
