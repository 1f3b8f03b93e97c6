"""`CoreObservers`: the objects that read the core after each event."""

from __future__ import annotations

from collections.abc import Callable

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.core.call_table import Call
    from dragonfly_executor.core.machine import Machine
    from dragonfly_executor.engine.context import CoreObserver, ObserversContext
    from dragonfly_executor.engine.queue_bound import QueueBound
    from dragonfly_executor.engine.runner_waits import RunnerWaits
    from dragonfly_executor.engine.submit_queue import SubmitQueue


class CoreObservers:
    """The observers of one pool's core. Each of them is made when it is first needed, by the engine thread.

    Args:
        engine: the pool's engine.
        queue: its queue of calls that it has yet to take.

    Attributes:
        present: those that exist. Only the engine thread changes the list.
        take: takes the calls out of the queue, as `SubmitQueue.take` does.
        bound: the bound on the number of waiting calls; None until a submit has one.
        waits: the waits for runners; None until there is one.
    """

    def __init__(self, engine: ObserversContext, queue: SubmitQueue) -> None:
        self._engine = engine
        self._queue = queue
        self.present: list[CoreObserver] = []
        self.take: Callable[[list[Call]], None] = queue.take
        self.bound: QueueBound | None = None
        self.waits: RunnerWaits | None = None

    # -- from any thread ----------------------------------------------------------------------------------------------

    def queue_bound(self) -> QueueBound:
        """Return what bounds the number of waiting calls. Raises as `Engine.submit` does."""
        if self.bound is None:
            # The engine thread makes it, because it knows how many calls wait.
            self._engine.prepare()
            return self._engine.ask(self._make_bound)
        return self.bound

    def runner_waits(self) -> RunnerWaits:
        """Return what waits for runners, on a pool that is started."""
        return self.waits or self._engine.ask(self._make_waits)

    # -- on the engine thread -----------------------------------------------------------------------------------------

    def _make_bound(self, machine: Machine) -> QueueBound:
        if self.bound is None:
            from dragonfly_executor.engine.queue_bound import QueueBound

            self.bound = QueueBound(self._engine, self._queue, machine.waiting)
            self.take = self.bound.take
            self.present.append(self.bound)
        return self.bound

    def _make_waits(self, _machine: Machine) -> RunnerWaits:
        if self.waits is None:
            from dragonfly_executor.engine.runner_waits import RunnerWaits

            self.waits = RunnerWaits(self._engine)
            self.present.append(self.waits)
        return self.waits

    def review(self, machine: Machine, *, is_open: bool) -> None:
        """Run each of them on the core. `is_open`: whether the pool still takes calls."""
        for observer in self.present:
            observer.review(machine, is_open=is_open)
