"""`RunnerWaits`: threads and tasks that wait until enough runners are up."""

from __future__ import annotations

from dragonfly_executor.engine.waiters import TaskWaiter, ThreadWaiter, Waiter
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.core.machine import Machine
    from dragonfly_executor.engine.context import RunnerWaitsContext


class RunnerWait:
    """One wait.

    Args:
        waiter: the thread or task.
        count: the number of runners that it waits for.

    Attributes:
        failed_before: number of boots that had failed when the wait began.
        is_met: whether that number of runners is up.
        error: why no runner comes up; None if runners are up, or may yet come.
        is_over: whether the wait is over. If it is over without a reason, the pool takes no more calls.
    """

    __slots__ = ("count", "error", "failed_before", "is_met", "is_over", "waiter")

    def __init__(self, waiter: Waiter, count: int) -> None:
        self.waiter = waiter
        self.count = count
        self.failed_before = 0
        self.is_met = False
        self.error: Exception | None = None
        self.is_over = False

    def begin(self, machine: Machine) -> None:
        """Look at the core for the first time."""
        self.failed_before = machine.boots_failed
        self.look(machine)

    def look(self, machine: Machine) -> None:
        """Look whether the wait is over."""
        self.is_met = machine.runners_up >= self.count
        if not self.is_met:
            self.error = machine.why_none_comes_up(self.failed_before)
        self.is_over = self.is_met or self.error is not None


class RunnerWaits:
    """All threads and tasks that wait for runners of one pool. Each of them is woken, even if the pool ends.

    Args:
        engine: the pool's engine.
    """

    def __init__(self, engine: RunnerWaitsContext) -> None:
        self._engine = engine
        self._waits: dict[int, RunnerWait] = {}

    # -- from any thread ----------------------------------------------------------------------------------------------

    def wait(self, count: int, timeout: float | None) -> None:
        """Wait in a thread until `count` runners are up; see `Pool.wait_for`."""
        waiter = ThreadWaiter()
        wait = RunnerWait(waiter, count)
        try:
            if self._begin(wait):
                waiter.wait(timeout)
        finally:
            self._waits.pop(id(wait), None)
        self._check(wait, timeout)

    async def wait_async(self, count: int) -> None:
        """Do the same in a task, without a limit. Its loop is not blocked."""
        waiter = TaskWaiter(self._engine.wakers.of)
        wait = RunnerWait(waiter, count)
        try:
            if self._begin(wait):
                await waiter.wait()
        finally:
            self._waits.pop(id(wait), None)
        self._check(wait, None)

    def _begin(self, wait: RunnerWait) -> bool:
        """Begin a wait. Returns False if it is over already."""
        self._waits[id(wait)] = wait
        # After that, so that either this thread sees the end of the pool, or the engine sees the wait.
        self._engine.check_open()
        self._engine.ask(wait.begin)
        return not wait.is_over

    def _check(self, wait: RunnerWait, timeout: float | None) -> None:
        """Raise the error of a wait that is over, if it has one."""
        if wait.error is not None:
            raise wait.error
        if not wait.is_met:
            self._engine.check_open()
            stats = self._engine.stats()
            raise TimeoutError(f"{wait.count} runners were not up within {timeout or 0:g} s: {stats.explain}")

    # -- on the engine thread -----------------------------------------------------------------------------------------

    def review(self, machine: Machine, *, is_open: bool) -> None:
        """End the waits that are over after an event."""
        for wait in list(self._waits.values()):
            if not wait.is_over:
                wait.look(machine)
                wait.is_over = wait.is_over or not is_open
                if wait.is_over:
                    wait.waiter.wake()
