"""`QueueBound`: the limit on the calls that wait in a pool. A submit beyond it waits or fails."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from dragonfly_executor import errors
from dragonfly_executor.core.call_table import Call
from dragonfly_executor.core.events import Tick
from dragonfly_executor.engine.submit_queue import SubmitQueue
from dragonfly_executor.engine.waiters import TaskWaiter, ThreadWaiter, Waiter
from dragonfly_executor.util.condition import RLock, holding
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.core.machine import Machine
    from dragonfly_executor.engine.context import QueueBoundContext


class QueueBound:
    """The bound on a pool's waiting calls, for the submits that have one. A pool has it from the first of these on.

    A call waits from its submit until it is sent to a runner, and again if it comes back. Calls move from the submit
    queue to the core. Submits read the submit queue first and `_waiting` second, and the engine adds calls to
    `_waiting` before it takes them out of the queue. So a submit may count a call twice, and never misses one.

    Args:
        engine: the engine.
        queue: its queue of calls that it has yet to take.
        waiting: number of calls that wait now.
    """

    def __init__(self, engine: QueueBoundContext, queue: SubmitQueue, waiting: int) -> None:
        self._engine = engine
        self._queue = queue
        self._waiting = waiting
        self._waiters: dict[int, deque[Waiter]] = {}
        """By bound, the threads and tasks that wait for room, in order."""
        # Between the count of one submit and its append, no other bounded submit may come. The engine thread does not
        # use this lock: a signal handler may hold it, and wait for the engine.
        self._lock = RLock()

    # -- from any thread ----------------------------------------------------------------------------------------------

    def submit(self, calls: Sequence[Call], at_most: int, *, waits: bool) -> None:
        """Submit one call as soon as fewer than `at_most` calls wait. No interrupt leaves the caller in the line.

        Args:
            calls: the call.
            at_most: the bound.
            waits: wait for room.

        Raises:
            QueueFullError: there is no room, and `waits` is False.
            RuntimeError: as `Engine.submit`, also if that happens during the wait.
        """
        has_waited = False
        try:
            while not self._try(calls, at_most):
                if not waits:
                    raise errors.QueueFullError(
                        f"the call was not submitted: max_queued is {at_most}, and {at_most} calls of the pool or more "
                        "wait for a slot. Submit it again later, or use when_full='wait'"
                    )
                waiter = ThreadWaiter()
                try:
                    if self._begin_wait(waiter, at_most, is_first=has_waited):
                        has_waited = True
                        waiter.wait()
                finally:
                    self._end_wait(waiter, at_most)
        except BaseException:
            if has_waited:
                self._pass_on()
            raise

    async def submit_async(self, calls: Sequence[Call], at_most: int) -> None:
        """Do the same in a task, which waits for room without blocking its loop."""
        has_waited = False
        try:
            while not self._try(calls, at_most):
                waiter = TaskWaiter(self._engine.wakers.of)
                try:
                    if self._begin_wait(waiter, at_most, is_first=has_waited):
                        has_waited = True
                        await waiter.wait()
                finally:
                    self._end_wait(waiter, at_most)
        except BaseException:
            if has_waited:
                self._pass_on()
            raise

    def _try(self, calls: Sequence[Call], at_most: int) -> bool:
        # First, because it may read files or start the engine, and other submits need the lock meanwhile.
        self._engine.prepare()
        return holding(self._lock, lambda: self._append(calls, at_most))

    def _append(self, calls: Sequence[Call], at_most: int) -> bool:
        if not self._has_room(at_most):
            return False
        self._engine.append(calls)
        return True

    def _has_room(self, at_most: int) -> bool:
        queued = sum(map(len, list(self._queue)))
        return queued + self._waiting < at_most

    def _begin_wait(self, waiter: Waiter, at_most: int, *, is_first: bool) -> bool:
        """Stand in line. Returns False if the waiter need not wait."""
        line = self._waiters.setdefault(at_most, deque())
        # One that was woken, and came too late, keeps its turn.
        line.appendleft(waiter) if is_first else line.append(waiter)
        # After that, so that either this thread sees the change, or the engine sees the waiter.
        self._engine.check_open()
        return not self._has_room(at_most)

    def _end_wait(self, waiter: Waiter, at_most: int) -> None:
        """Leave the line, unless the engine has taken the waiter out."""
        with suppress(KeyError, ValueError):
            self._waiters[at_most].remove(waiter)

    def _pass_on(self) -> None:
        """Let the engine wake another waiter: it may have woken the one that gives up."""
        self._engine.post(Tick())

    # -- on the engine thread -----------------------------------------------------------------------------------------

    def take(self, calls: list[Call]) -> None:
        """Take the calls out of the submit queue, as `SubmitQueue.take` does, and count them."""
        entries = list(self._queue)
        count = sum(map(len, entries))
        self._waiting += count
        self._queue.take(calls, len(entries))
        self._waiting -= count - len(calls)  # some were withdrawn meanwhile

    def review(self, machine: Machine, *, is_open: bool) -> None:
        """Count the calls that wait after an event, and wake as many waiters as there is room for.

        Args:
            machine: the core.
            is_open: False if the pool takes no more calls, so that all waiters are to get the error.
        """
        waiting = self._waiting = machine.waiting
        for at_most, line in list(self._waiters.items()):
            room = at_most - waiting if is_open else len(line)
            while line and room > 0:
                room -= 1
                try:
                    line.popleft().wake()
                except IndexError:  # it has just left
                    break
