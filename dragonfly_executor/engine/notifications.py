"""Log lines, hooks and events of a pool. All of them run on the callback thread, because they run the user's code."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from time import time

from dragonfly_executor import errors
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.core.capacity import Capacity
    from dragonfly_executor.core.machine import Machine
    from dragonfly_executor.engine.option_keywords import Hook
    from dragonfly_executor.engine.options import PoolOptions
    from dragonfly_executor.engine.worker_threads import WorkerThreads

logger = logging.getLogger("dragonfly_executor")
KEPT_ERRORS = 5
"""Number of the last boot errors that are kept."""
MAX_ERROR = 2000
"""Maximum number of characters of each."""


class Notifications:
    """The sender of one pool's log lines, hooks and events.

    Args:
        options, machine: the pool's.
        observers: called with each event of a runner, besides the hook `on_event`.
        names_backends: whether the texts name the backend of each runner, because the pool has several.
    """

    def __init__(
        self, options: PoolOptions, machine: Machine, observers: Sequence[Hook] = (), *, names_backends: bool
    ) -> None:
        self._options = options
        self._names_backends = names_backends
        self._observers = (*((options.on_event,) if options.on_event is not None else ()), *observers)
        self.boot_errors: deque[tuple[float, int, str]] = deque(maxlen=KEPT_ERRORS)
        """The errors of the last boots that failed: Unix time, runner, text."""
        self.on_runner: Callable[[str, int, str], object] | None = None
        """Called on the engine thread with each event of a runner: its name, the runner, and its text."""
        self._machine = machine
        self._workers: WorkerThreads | None = None
        self._growing: set[int] = set()

    def run_on(self, workers: WorkerThreads) -> None:
        """Run hooks and log handlers on these threads from now on."""
        self._workers = workers

    def _later(self, job: Callable[..., object], *args: Any) -> None:
        if self._workers is not None:
            self._workers.run(job, *args)

    def log_error(self, text: str) -> None:
        """Log an error at once. It never raises, whatever a log handler does, because the engine calls it."""
        with suppress(Exception):
            logger.error("pool %s: %s", self._options.name, text)

    def warn(self, text: str) -> None:
        """Log a warning: the user should know of it, and the pool goes on."""
        self._later(logger.warning, "pool %s: %s", self._options.name, text)

    def callback_failed(self, error: BaseException) -> None:
        """Log an exception of a done callback or a hook. It has no other effect."""
        logger.error("pool %s: exception in a callback", self._options.name, exc_info=error)

    def grow_started(self, runner_id: int, backend: str, count: int) -> None:
        """Report that a boot begins. `backend`, here and below: the name of the runner's backend."""
        if count > self._machine.pool.min:
            self._growing.add(runner_id)
            if self._options.on_grow_start is not None:
                self._later(self._options.on_grow_start, self._facts(count))
        self._tell("boot", runner_id, backend, f"boots {self._name(runner_id, backend)}", count)

    def boot_waits(self, runner_id: int, backend: str, count: int, progress: str) -> None:
        """Report the progress of a boot that waits in a queue of its platform."""
        text = f"{self._name(runner_id, backend)} waits to start: {progress}"
        self._tell("queued", runner_id, backend, text, count)

    def runner_up(
        self, runner_id: int, backend: str, count: int, took: float, node: Mapping[str, str], capacity: Capacity | None
    ) -> None:
        """Report that a boot has succeeded. `node`: the backend's facts about the node."""
        self._end_growth(runner_id, count, lambda: "ok")
        has = "" if capacity is None else f" with {capacity}"
        text = f"{self._name(runner_id, backend)} is up after {took * 1000:.0f} ms{has}"
        self._tell("up", runner_id, backend, text, count, seconds=took, node=dict(node), capacity=capacity)

    def boot_failed(self, runner_id: int, backend: str, count: int, error: Exception) -> None:
        """Report that a boot has failed."""
        self._end_growth(runner_id, count, lambda: error)
        text = f"{self._name(runner_id, backend)} failed to boot: {error}"
        self.boot_errors.append((time(), runner_id, str(error)[:MAX_ERROR]))
        self._tell("boot failed", runner_id, backend, text, count)

    def growth_given_up(self, runner_id: int, backend: str, count: int, reason: str) -> None:
        """Report that a boot was aborted because its runner is not needed any more."""
        self._end_growth(runner_id, count, lambda: errors.BootError(f"the boot was given up: {reason}"))
        text = f"gives up the boot of {self._name(runner_id, backend)}: {reason}"
        self._tell("boot given up", runner_id, backend, text, count)

    def _end_growth(self, runner_id: int, count: int, result: Callable[[], object]) -> None:
        """Call the hook for the end of a growth, if its start was reported."""
        hook = self._options.on_grow_end
        if runner_id in self._growing and hook is not None:
            facts = self._facts(count)
            self._later(lambda: hook(result(), facts))
        self._growing.discard(runner_id)

    def runner_down(self, runner_id: int, backend: str, count: int, reason: str) -> None:
        """Report that a runner stops, or is gone."""
        if self._options.on_shrink is not None:
            self._later(self._options.on_shrink, self._facts(count))
        self._tell("down", runner_id, backend, f"{self._name(runner_id, backend)} is down: {reason}", count)

    def _name(self, runner_id: int, backend: str) -> str:
        return f"runner {runner_id} ({backend})" if self._names_backends else f"runner {runner_id}"

    def _facts(self, count: int) -> dict[str, Any]:
        return {"name": self._options.name, "count": count, "pid": os.getpid()}

    def _tell(self, what: str, runner_id: int, backend: str, text: str, count: int, **more: object) -> None:
        level = self._options.log
        if self.on_runner is not None:
            self.on_runner(what, runner_id, text)
        if self._observers:
            event = {"event": what, "time": time(), "runner_id": runner_id, "backend": backend, "text": text}
            for observer in self._observers:
                self._later(observer, {**self._facts(count), **event, **more})
        if level is not False and isinstance(level, int):
            form = "pool %s: %s (%d of %d runners)"
            self._later(logger.log, level, form, self._options.name, text, count, self._machine.pool.max)
