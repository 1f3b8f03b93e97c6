"""Polls nodes so that a boot fails as soon as its node exits, before the runner has dialed back."""

from __future__ import annotations

from dragonfly_executor import errors
from dragonfly_executor.backends.base import Node
from dragonfly_executor.engine.queue_progress import progress_of
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from dragonfly_executor.engine.worker_threads import WorkerThreads
    from dragonfly_executor.transport.loop import Loop

POLL_TIME = 5.0
"""Maximum duration of one poll of a node, in seconds."""
QUEUE_POLL_TIME = 1.0
"""Maximum duration of one poll of a node in a queue. Many nodes may wait there, and each poll brings their progress."""
POLLS_AT_ONCE = 16


class WatchedBoot(Protocol):
    """A boot whose node is polled. It belongs to the engine thread."""

    @property
    def awaits_runner(self) -> bool:
        """True until the runner has dialed back, or the boot is over."""
        ...

    def node_waits(self, progress: str) -> None:
        """Report the progress of a node that waits in a queue, in the platform's words."""

    def node_ended(self, error: errors.BootError) -> None:
        """Fail: the node has ended, so its runner will not dial back."""


class NodeWatcher:
    """A watcher of nodes. It polls them on worker threads of its own, because a node may block during a poll.

    Args:
        loop: the engine's loop.
        workers: threads for this alone.
    """

    def __init__(self, loop: Loop, workers: WorkerThreads) -> None:
        self._loop = loop
        self._workers = workers

    def watch(self, node: Node, boot: WatchedBoot) -> None:
        """Poll the node of this boot for as long as the boot awaits its runner. On the engine thread."""
        if type(node).ended is not Node.ended and boot.awaits_runner:
            self._workers.run(self._poll, node, boot)

    def _poll(self, node: Node, boot: WatchedBoot) -> None:
        """Poll the node, on a worker thread."""
        error = node.ended(QUEUE_POLL_TIME if node.is_queued else POLL_TIME)
        progress = progress_of(node)

        def polled() -> None:
            """Fail the boot or poll again, on the engine thread."""
            # If the runner has just dialed back, the end of its link reports the end of the node.
            if error is not None and boot.awaits_runner:
                boot.node_ended(error)
                return
            if progress and boot.awaits_runner:
                boot.node_waits(progress)
            self.watch(node, boot)

        self._loop.call_soon_threadsafe(polled)
