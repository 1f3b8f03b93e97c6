"""Notices when a node has ended whose runner has yet to dial back: such a boot need not wait for its deadline."""

from __future__ import annotations

from dragonfly_executor.backends.base import Node

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from dragonfly_executor.engine.boot.manager import Boots
    from dragonfly_executor.engine.runner_connection import RunnerLink
    from dragonfly_executor.engine.worker_threads import Crews
    from dragonfly_executor.transport.loop import Loop

LOOK = 5.0
"""Seconds that one look at a node takes."""
LOOKS_AT_ONCE = 16


class Lookout:
    """Asks nodes, each again and again, on a crew of its own: a look takes as long as the node likes.

    Args:
        boots: whose nodes they are.
        loop: the engine's.
        crews: the pool's.
    """

    def __init__(self, boots: Boots, loop: Loop, crews: Crews) -> None:
        self._boots = boots
        self._loop = loop
        self._crew = crews.make("watch", LOOKS_AT_ONCE)

    def watch(self, runner: RunnerLink) -> None:
        """Look at this runner's node until it has dialed back, or nobody waits for it. On the engine thread."""
        if type(runner.node).ended is not Node.ended and self._boots.is_waited_for(runner):
            self._crew.run(self._look, runner)

    def _look(self, runner: RunnerLink) -> None:
        """On the crew."""
        error = runner.node.ended(LOOK)

        def looked() -> None:
            """On the engine thread: the boot has failed, or there is another look to come."""
            # If it has just dialed in, the end of its link says that it has ended.
            if error is not None and self._boots.is_waited_for(runner):
                self._boots.node_ended(runner, error)
            else:
                self.watch(runner)

        self._loop.call_soon_threadsafe(looked)
