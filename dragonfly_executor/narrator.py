"""Tells what a pool does: log lines, hooks, events. All of it on the callback thread, since it is the user's code."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dragonfly_executor.core.machine import Machine
    from dragonfly_executor.options import PoolOptions
    from dragonfly_executor.threads import Crew

logger = logging.getLogger("dragonfly_executor")


class Narrator:
    """Speaks for one pool."""

    def __init__(self, options: PoolOptions, machine: Machine) -> None:
        self._options = options
        self._machine = machine
        self._crew: Crew | None = None

    def run_on(self, crew: Crew) -> None:
        """Run hooks and log handlers on this crew from now on."""
        self._crew = crew

    def _later(self, job: Callable[..., object], *args: Any) -> None:
        if self._crew is not None:
            self._crew.run(job, *args)

    def complain(self, text: str) -> None:
        """Something is wrong that nobody may miss."""
        logger.error("pool %s: %s", self._options.name, text)

    def callback_failed(self, error: BaseException) -> None:
        """A done callback or a hook raised: it is logged, and nothing else happens."""
        logger.error("pool %s: exception in a callback", self._options.name, exc_info=error)

    def grow_started(self, runner_id: int, count: int) -> None:
        """A boot begins."""
        hook = self._options.on_grow_start
        if hook is not None and count > self._options.min:
            self._later(hook, self._facts(count))
        self._tell("boot", runner_id, f"boots runner {runner_id}", count)

    def grow_ended(self, runner_id: int, count: int, error: Exception | None, took: float) -> None:
        """A boot has ended, well or not."""
        hook = self._options.on_grow_end
        if hook is not None and count > self._options.min:
            self._later(hook, "ok" if error is None else error, self._facts(count))
        if error is None:
            self._tell("up", runner_id, f"runner {runner_id} is up after {took * 1000:.0f} ms", count)
        else:
            self._tell("boot failed", runner_id, f"runner {runner_id} failed to boot: {error}", count)

    def shrunk(self, runner_id: int, count: int, reason: str) -> None:
        """A runner goes or is gone."""
        if self._options.on_shrink is not None:
            self._later(self._options.on_shrink, self._facts(count))
        self._tell("down", runner_id, f"runner {runner_id} goes: {reason}", count)

    def _facts(self, count: int) -> dict[str, Any]:
        return {"name": self._options.name, "count": count, "pid": os.getpid()}

    def _tell(self, what: str, runner_id: int, text: str, count: int) -> None:
        level, hook = self._options.log, self._options.on_event
        if hook is not None:
            self._later(hook, {**self._facts(count), "event": what, "runner_id": runner_id, "text": text})
        if level is not False and isinstance(level, int):
            form = "pool %s: %s (%d of %d runners)"
            self._later(logger.log, level, form, self._options.name, text, count, self._options.max)
