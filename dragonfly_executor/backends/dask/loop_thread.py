"""`LoopThread`: an asyncio event loop on a thread of its own, for coroutines that other threads wait for."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from dragonfly_executor.backends.deadline import Deadline

T = TypeVar("T")
CLOSE_TIMEOUT = 5.0
"""Seconds that the loop's thread may take to end."""


class LoopThread:
    """Runs coroutines for other threads. Each wait has a deadline.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()

    def call(self, work: Coroutine[Any, Any, T], deadline: Deadline, at_most: float = float("inf")) -> T:
        """Run a coroutine on the loop, and return its result.

        Args:
            work: the coroutine. It is cancelled if the deadline passes.
            deadline: of the wait.
            at_most: seconds that the wait may take.

        Raises:
            TimeoutError: the deadline has passed, or the work was cancelled.
        """
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        seconds = deadline.left(at_most)
        with deadline.ending(future.cancel):
            try:
                return future.result(None if seconds == float("inf") else seconds)
            except concurrent.futures.CancelledError:
                raise TimeoutError("the work was cancelled") from None
            finally:
                future.cancel()

    def close(self) -> None:
        """Cancel what runs on the loop, and end the thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(CLOSE_TIMEOUT)
