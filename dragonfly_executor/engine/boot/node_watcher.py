"""Polls nodes so that a boot fails as soon as its node exits, before the runner has dialed back."""

from __future__ import annotations

from collections.abc import Callable

from dragonfly_executor import errors
from dragonfly_executor.backends.base import Node
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.engine.runner_connection import RunnerLink
    from dragonfly_executor.engine.worker_threads import WorkerThreadGroups
    from dragonfly_executor.transport.loop import Loop

LOOK = 5.0
"""Maximum duration of one poll of a node, in seconds."""
LOOKS_AT_ONCE = 16


class NodeWatcher:
    """A watcher of nodes. It polls them on worker threads of its own, because a node may block during a poll.

    Args:
        loop: the engine's loop.
        worker_groups: the pool's groups of worker threads.
        is_waited_for: returns True for a runner that is booting and has not dialed back.
        on_end: gets such a runner whose node has ended, and the error, on the engine thread.
    """

    def __init__(
        self,
        loop: Loop,
        worker_groups: WorkerThreadGroups,
        *,
        is_waited_for: Callable[[RunnerLink], bool],
        on_end: Callable[[RunnerLink, errors.BootError], object],
    ) -> None:
        self._loop = loop
        self._workers = worker_groups.make("watch", LOOKS_AT_ONCE)
        self._is_waited_for = is_waited_for
        self._on_end = on_end

    def watch(self, runner: RunnerLink) -> None:
        """Poll this runner's node until the runner has dialed back, or its boot is over. On the engine thread."""
        if type(runner.node).ended is not Node.ended and self._is_waited_for(runner):
            self._workers.run(self._look, runner)

    def _look(self, runner: RunnerLink) -> None:
        """Poll the node, on a worker thread."""
        error = runner.node.ended(LOOK)

        def looked() -> None:
            """Fail the boot or poll again, on the engine thread."""
            # If the runner has just dialed back, the end of its link reports the end of the node.
            if error is not None and self._is_waited_for(runner):
                self._on_end(runner, error)
            else:
                self.watch(runner)

        self._loop.call_soon_threadsafe(looked)
