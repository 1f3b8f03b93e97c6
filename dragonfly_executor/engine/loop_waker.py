"""Wakers of asyncio event loops: they resume tasks whose calls have ended, many of them by one wake-up."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop


class LoopWaker:
    """The way from one engine thread to one asyncio event loop.

    Whatever waits for calls of the engine holds the waker, and the engine has only a weak reference to it. So a loop
    that has ended is not kept.

    Args:
        loop: the event loop.
        due: the engine's list of wakers that it must flush. Only the engine thread uses it.
    """

    def __init__(self, loop: AbstractEventLoop, due: list[LoopWaker]) -> None:
        self._loop = loop
        self._due = due
        self._ended: deque[Callable[[], object]] = deque()
        self._is_due = False
        self._is_scheduled = False

    def add(self, resume: Callable[[], object]) -> None:
        """Have the loop run `resume`, after the next `flush`. Only the engine thread calls this."""
        self._ended.append(resume)
        if not self._is_due:
            self._is_due = True
            self._due.append(self)

    def flush(self) -> None:
        """Wake the loop, once for all that was added. Only the engine thread calls this. It never raises."""
        self._is_due = False
        if self._is_scheduled:
            return  # the loop has yet to run `_resume_all`, which takes all that is there then
        self._is_scheduled = True
        try:
            self._loop.call_soon_threadsafe(self._resume_all)
        except Exception:
            # The loop is closed, so nothing in it can go on. A loop that is broken must not break the pool.
            self._ended.clear()

    def _resume_all(self) -> None:
        # First, so that whatever the engine adds from now on is taken below or schedules this method again.
        self._is_scheduled = False
        ended = self._ended
        while ended:
            ended.popleft()()


class LoopWakers:
    """The wakers of one engine.

    Attributes:
        due: those of tasks whose calls were settled since the last flush. Only the engine thread uses it.
    """

    def __init__(self) -> None:
        self.due: list[LoopWaker] = []
        self._wakers: weakref.WeakValueDictionary[int, LoopWaker] = weakref.WeakValueDictionary()
        """By the `id` of the loop."""

    def of(self, loop: AbstractEventLoop) -> LoopWaker:
        """Return the waker that resumes the tasks of a loop. Only the thread that runs the loop may call this."""
        # A waker holds its loop, so no other loop has its id while it exists.
        waker = self._wakers.get(id(loop))
        if waker is None:
            waker = self._wakers[id(loop)] = LoopWaker(loop, self.due)
        return waker

    def flush(self) -> None:
        """Wake the event loops with tasks that are to be resumed, each once. Only the engine thread calls this."""
        while self.due:
            self.due.pop().flush()
