"""Releases nodes. A backend may block while it stops a node, and may never return."""

from __future__ import annotations

from collections.abc import Callable

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.backends.base import Node
    from dragonfly_executor.engine.notifications import Notifications
    from dragonfly_executor.engine.runner_connection import RunnerLink
    from dragonfly_executor.engine.worker_threads import WorkerThreads
    from dragonfly_executor.transport.loop import Loop

RELEASE_TIMEOUT = 60.0
"""Seconds that a backend has to stop a node. After that the pool goes on, and a shutdown does too."""


class NodeReleaser:
    """A releaser of nodes: each is released once, within `RELEASE_TIMEOUT` seconds. It belongs to the engine thread.

    Args:
        workers: threads only for backends that block while they stop nodes.
        loop, notifications: the pool's.
    """

    def __init__(self, workers: WorkerThreads, loop: Loop, notifications: Notifications) -> None:
        self._workers = workers
        self._loop = loop
        self._notifications = notifications

    def release(self, runner: RunnerLink, then: Callable[[], object]) -> None:
        """Close the link and stop the node on a worker thread.

        Afterwards, or if that takes too long, the engine thread runs `then`.
        """
        runner.close()
        going_on = [then]

        def go_on() -> None:
            """Call `then` once: when the node is released, or when the release takes too long."""
            limit.cancel()
            while going_on:
                going_on.pop()()

        def give_up() -> None:
            """Go on without the backend, which may block without end."""
            self._notifications.log_error(
                f"the {runner.backend} backend did not stop the node of runner {runner.id} within {RELEASE_TIMEOUT:g} s"
            )
            go_on()

        def give_back() -> None:
            """Stop the node, on a worker thread."""
            try:
                for thread in runner.give_back():
                    self._notifications.log_error(f"thread {thread} of runner {runner.id} has not ended")
            finally:
                self._loop.call_soon_threadsafe(go_on)

        limit = self._loop.call_later(RELEASE_TIMEOUT, give_up)
        self._workers.run(give_back)

    def abandon(self, runner: RunnerLink) -> None:
        """Close the link and stop the node. The outcome is not reported."""
        runner.close()
        self._workers.run(runner.give_back)

    def stop(self, node: Node) -> None:
        """Stop a node that has no link. The outcome is not reported."""
        self._workers.run(node.stop)
