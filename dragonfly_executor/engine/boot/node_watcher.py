"""Notices when a node has ended whose runner has yet to dial back: such a boot need not wait for its deadline."""

from __future__ import annotations

from collections.abc import Callable

from dragonfly_executor import errors
from dragonfly_executor.backends.base import Node

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from dragonfly_executor.engine.runner_connection import RunnerLink
    from dragonfly_executor.engine.worker_threads import Crews
    from dragonfly_executor.transport.loop import Loop

LOOK = 5.0
"""Seconds that one look at a node takes."""
LOOKS_AT_ONCE = 16


class Lookout:
    """Asks nodes, each again and again, on a crew of its own: a look takes as long as the node likes.

    Args:
        loop: the engine's.
        crews: the pool's.
        is_waited_for: returns True for a runner that boots, and has yet to dial back.
        on_end: gets such a runner whose node has ended, and the error that says how, on the engine thread.
    """

    def __init__(
        self,
        loop: Loop,
        crews: Crews,
        *,
        is_waited_for: Callable[[RunnerLink], bool],
        on_end: Callable[[RunnerLink, errors.BootError], object],
    ) -> None:
        self._loop = loop
        self._crew = crews.make("watch", LOOKS_AT_ONCE)
        self._is_waited_for = is_waited_for
        self._on_end = on_end

    def watch(self, runner: RunnerLink) -> None:
        """Look at this runner's node until it has dialed back, or nobody waits for it. On the engine thread."""
        if type(runner.node).ended is not Node.ended and self._is_waited_for(runner):
            self._crew.run(self._look, runner)

    def _look(self, runner: RunnerLink) -> None:
        """On the crew."""
        error = runner.node.ended(LOOK)

        def looked() -> None:
            """On the engine thread: the boot has failed, or there is another look to come."""
            # If it has just dialed in, the end of its link says that it has ended.
            if error is not None and self._is_waited_for(runner):
                self._on_end(runner, error)
            else:
                self.watch(runner)

        self._loop.call_soon_threadsafe(looked)
