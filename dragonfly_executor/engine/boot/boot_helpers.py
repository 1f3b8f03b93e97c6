"""The helpers that all boots of a pool share."""

from __future__ import annotations

from dragonfly_executor.engine.boot.boot_batches import BootBatches
from dragonfly_executor.engine.boot.node_booter import NodeBooter
from dragonfly_executor.engine.boot.node_watcher import POLLS_AT_ONCE, NodeWatcher
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragonfly_executor.backends.base import Backend
    from dragonfly_executor.engine.boot.dialback import DialBack
    from dragonfly_executor.engine.boot.file_sync import FileSync
    from dragonfly_executor.engine.boot.node_release import NodeReleaser
    from dragonfly_executor.engine.boot.session_setup import SessionSetup
    from dragonfly_executor.engine.context import EngineContext
    from dragonfly_executor.engine.runner_connection import RunnerHandler
    from dragonfly_executor.engine.worker_threads import WorkerThreadGroups, WorkerThreads
    from dragonfly_executor.sync import FileSnapshot
    from dragonfly_executor.transport.loop import Loop

LISTENER_THREADS = 1
"""Number of threads beyond those of the boots: one opens the listener for dial-back."""


class BootHelpers:
    """The helpers of a pool's boots. They know nothing of each other.

    Args:
        engine: has the options, and gets an event when a node is asked for, and when a boot waits for its turn.
        backend, loop, worker_groups: the pool's.
        session_setup: sends WELCOME and SETUP.
        file_snapshot: the files that remote runners need; None if the runners see this machine's files.
        releaser: releases the nodes of boots that failed.
        handler: gets the events of a runner's link, except HELLO.
        warn: logs a warning.

    Attributes:
        workers: threads for the backend's `boot`.
        node_booter: boots nodes on these threads.
        batches: gathers boots that the backend can ask for together.
        dial_back: listens for runners; None if they do not dial back.
        node_watcher: polls nodes until their runners dial back; None if they do not.
        file_sync: sends files; None if the runners see this machine's files.
    """

    def __init__(
        self,
        engine: EngineContext,
        backend: Backend,
        loop: Loop,
        worker_groups: WorkerThreadGroups,
        *,
        session_setup: SessionSetup,
        file_snapshot: FileSnapshot | None,
        releaser: NodeReleaser,
        handler: RunnerHandler,
        warn: Callable[[str], object],
    ) -> None:
        self.engine = engine
        self.backend = backend
        self.loop = loop
        self.session_setup = session_setup
        self.releaser = releaser
        self.handler = handler
        self.warn = warn
        self.workers = worker_groups.make("boots", backend.max_concurrent_boots + LISTENER_THREADS)
        self.node_booter = NodeBooter(backend, file_snapshot, loop)
        self.batches = BootBatches(backend, loop, self.workers, self.node_booter)
        self.dial_back: DialBack | None = None
        self.node_watcher: NodeWatcher | None = None
        self.file_sync: FileSync | None = None
        if backend.dials_back:
            self.dial_back = self._make_dial_back()
            self.node_watcher = NodeWatcher(loop, worker_groups.make("watch", POLLS_AT_ONCE))
        if file_snapshot is not None:
            self.file_sync = self._make_file_sync(file_snapshot, worker_groups.make("sync", 1))

    def _make_dial_back(self) -> DialBack:
        # It loads ssl, which no other backend needs.
        from dragonfly_executor.engine.boot.dialback import DialBack

        return DialBack(self.backend, self.loop, self.workers, self.warn)

    def _make_file_sync(self, file_snapshot: FileSnapshot, readers: WorkerThreads) -> FileSync:
        # It loads the sync, which runners on this machine do not need.
        from dragonfly_executor.engine.boot.file_sync import FileSync

        return FileSync(file_snapshot, readers, self.loop, self.handler)

    def descriptors(self) -> list[int]:
        """Return the descriptors that a forked child must close."""
        return [] if self.dial_back is None else self.dial_back.descriptors()

    def close(self) -> None:
        """Accept no more runners, and release nodes that no boot has taken."""
        if self.dial_back is not None:
            self.dial_back.close()
        for node in self.node_booter.close():
            self.releaser.stop(node)
