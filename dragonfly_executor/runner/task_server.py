"""Runs several `async def` calls at once, as tasks of the slot's event loop."""

from __future__ import annotations

import os
from time import perf_counter
from types import CoroutineType

from dragonfly_executor.protocol.placed_messages import SlotSays
from dragonfly_executor.runner import slot_shutdown
from dragonfly_executor.runner.agent_stream import AgentStream
from dragonfly_executor.runner.call_loop import CallLoop
from dragonfly_executor.runner.task_progress import RUNNING_TASK, TaskProgress
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import Any

    from dragonfly_executor.runner.call_loop import LoopChannel

    class TaskChannel(LoopChannel, Protocol):
        """The messages of the slot, as `MethodChannel` has them."""

        on_end_task: Callable[[int], object] | None

        def say(self, what: str, *args: Any) -> None: ...


def serve_tasks(channel: TaskChannel, concurrency: int) -> None:
    """Run calls, `concurrency` at once, until the parent stops the slot."""
    channel.run_coroutine(TaskServer(channel, concurrency).serve())


class TaskServer:
    """The calls that run in the loop of a slot.

    Args:
        channel: the messages between the slot and the parent.
        concurrency: number of calls that run at once.
    """

    def __init__(self, channel: TaskChannel, concurrency: int) -> None:
        self._channel = channel
        self._concurrency = concurrency
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Run calls until the parent stops the slot."""
        # Imported here, because only slots with such calls need it.
        from asyncio import get_running_loop

        loop, channel = get_running_loop(), self._channel
        channel.on_end_task = lambda number: loop.call_soon_threadsafe(self._end, number)
        agent = AgentStream.of_process
        progress = TaskProgress(channel.say, loop)

        def begin(number: int, call: tuple[Any, ...], since: float) -> asyncio.Task[None]:
            task = self._tasks[number] = loop.create_task(self._run(progress, number, call, since))
            task.add_done_callback(lambda _: self._ended(number))
            return task

        calls = CallLoop(channel, self._concurrency, begin)
        if agent is not None:
            agent.reports = progress
        try:
            # From here on the parent sends calls.
            channel.say(SlotSays.READY)
            await calls.run()
        finally:
            channel.on_end_task = None
            if agent is not None:
                agent.reports = None

    async def _run(self, progress: TaskProgress, number: int, call: tuple[Any, ...], since: float) -> None:
        """Run one call, and answer it. No exception leaves the task: some would end the loop."""
        fn, args, kwargs, retry_on = call
        value, failure = None, None
        RUNNING_TASK.set(number)
        try:
            value = fn(*args, **kwargs)
            if type(value) is CoroutineType:
                value = await value
        except BaseException as error:
            failure = error
        del call, fn, args, kwargs
        # From here on a cancel comes too late.
        self._tasks.pop(number, None)
        try:
            progress.end(number)
            self._channel.finish(number, since, value, failure, bool(retry_on) and isinstance(failure, retry_on))
        except OSError:
            # The agent is gone, or a call closed a descriptor of the slot: no call here can be answered any more.
            os._exit(1)
        del value, failure
        slot_shutdown.flush_standard_streams()

    def _ended(self, number: int) -> None:
        """Answer a call whose task was cancelled before its first step."""
        if self._tasks.pop(number, None) is not None:
            from asyncio import CancelledError

            self._channel.finish(number, perf_counter(), None, CancelledError(), False)

    def _end(self, number: int) -> None:
        """Cancel the task of a call, which may have ended."""
        task = self._tasks.get(number)
        if task is not None:
            task.cancel()
            self._channel.say(SlotSays.CANCELLED, number)
