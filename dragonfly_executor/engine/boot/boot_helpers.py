"""The helpers that all boots of a tier share."""

from __future__ import annotations

from dragonfly_executor.engine.boot.boot_batches import BootBatches
from dragonfly_executor.engine.boot.launched_node import KEPT
from dragonfly_executor.engine.boot.node_booter import NodeBooter
from dragonfly_executor.engine.boot.node_watcher import POLLS_AT_ONCE, NodeWatcher
from dragonfly_executor.engine.boot.session_setup import SessionSetup
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragonfly_executor.engine.boot.dialback import DialBack
    from dragonfly_executor.engine.boot.file_sync import FileSync
    from dragonfly_executor.engine.boot.launched_node import LaunchedNode
    from dragonfly_executor.engine.boot.node_release import NodeReleaser
    from dragonfly_executor.engine.context import EngineContext
    from dragonfly_executor.engine.runner_connection import RunnerHandler
    from dragonfly_executor.engine.tier_settings import TierSettings
    from dragonfly_executor.engine.worker_threads import WorkerThreadGroups, WorkerThreads
    from dragonfly_executor.sync import FileSnapshot
    from dragonfly_executor.transport.loop import Loop

LISTENER_THREADS = 1
"""Number of threads in addition to the boots' threads: one opens the listener for dial-back."""
HUNG_JOIN = 0.5
"""Seconds that the end of a pool waits for the boot threads, if one of them is known to hang."""


class BootHelpers:
    """The helpers of a tier's boots. They know nothing of each other.

    Args:
        engine: has the options, and gets an event when a node is asked for, and when a boot waits for its turn.
        tier: has the backend and the files that remote runners need.
        loop, worker_groups: the pool's.
        initializer: the encoded call that each slot runs first.
        releaser: releases the nodes of boots that failed.
        handler: gets the events of a runner's link, except HELLO.
        warn: logs a warning.
        launched: the node of the pool's first runner, if it was launched ahead of its boot.

    Attributes:
        hung: numbers of the boots that are over, and in which the backend still blocks.
        failures: number of boots that have failed since the last success.
        session_setup: sends WELCOME and SETUP.
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
        tier: TierSettings,
        loop: Loop,
        worker_groups: WorkerThreadGroups,
        *,
        initializer: bytes,
        releaser: NodeReleaser,
        handler: RunnerHandler,
        warn: Callable[[str], object],
        launched: LaunchedNode | None = None,
    ) -> None:
        backend, file_snapshot = tier.backend, tier.file_snapshot
        self.engine = engine
        self.tier = tier
        self.backend = backend
        self.loop = loop
        self.session_setup = SessionSetup(engine, tier, initializer, warn)
        self.releaser = releaser
        self.handler = handler
        self.warn = warn
        self.hung: set[int] = set()
        self.failures = 0
        # Threads of the first tier have short names, as most pools have no other.
        prefix = "" if tier is engine.tiers[0] else f"{tier.name}-"
        self.workers = worker_groups.make(f"{prefix}boots", backend.max_concurrent_boots + LISTENER_THREADS)
        self._launched = launched
        self.node_booter = NodeBooter(backend, file_snapshot, loop, launched)
        if launched is not None:
            loop.call_later(KEPT, self._stop_launched)
        self.batches = BootBatches(backend, loop, self.workers, self.node_booter)
        self.dial_back: DialBack | None = None
        self.node_watcher: NodeWatcher | None = None
        self.file_sync: FileSync | None = None
        if backend.dials_back:
            self.dial_back = self._make_dial_back()
            self.node_watcher = NodeWatcher(loop, worker_groups.make(f"{prefix}watch", POLLS_AT_ONCE))
        if file_snapshot is not None:
            self.file_sync = self._make_file_sync(file_snapshot, worker_groups.make(f"{prefix}sync", 1))

    def _make_dial_back(self) -> DialBack:
        # It loads ssl, which no other backend needs.
        from dragonfly_executor.engine.boot.dialback import DialBack

        return DialBack(self.backend, self.loop, self.workers, self.warn)

    def _make_file_sync(self, file_snapshot: FileSnapshot, readers: WorkerThreads) -> FileSync:
        # It loads the sync, which runners on this machine do not need.
        from dragonfly_executor.engine.boot.file_sync import FileSync

        return FileSync(file_snapshot, readers, self.loop, self.handler)

    def _stop_launched(self) -> None:
        """Stop the node that was launched ahead, unless a boot has taken it."""
        node = None if self._launched is None else self._launched.take()
        if node is not None:
            self.releaser.stop(node)

    def boot_hangs(self, runner_id: int) -> None:
        """Record that the backend blocks in a boot that is over."""
        self.hung.add(runner_id)
        self.workers.join_timeout = HUNG_JOIN

    def boot_returned(self, runner_id: int) -> None:
        """Record that the backend has returned from a boot that was over."""
        self.hung.discard(runner_id)
        if not self.hung:
            self.workers.join_timeout = None

    def descriptors(self) -> list[int]:
        """Return the descriptors that a forked child must close."""
        launched = () if self._launched is None else self._launched.descriptors()
        return [*launched, *(() if self.dial_back is None else self.dial_back.descriptors())]

    def close(self) -> None:
        """Accept no more runners, and release nodes that no boot has taken."""
        if self.dial_back is not None:
            self.dial_back.close()
        for node in self.node_booter.close():
            self.releaser.stop(node)
