"""Starts the sync of the parent's files to a runner that does not see them."""

from __future__ import annotations

from collections.abc import Callable

from dragonfly_executor import errors
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.engine.runner_connection import RunnerHandler, RunnerLink
    from dragonfly_executor.engine.worker_threads import WorkerThreads
    from dragonfly_executor.sync import FileSnapshot, Sender
    from dragonfly_executor.transport.loop import Loop


class FileSync:
    """A starter of syncs.

    Args:
        file_snapshot: the files that the runners need.
        workers: threads that only read files: files are read while backends block.
        loop: the engine's loop.
        handler: gets runners whose sync has failed.
    """

    def __init__(self, file_snapshot: FileSnapshot, workers: WorkerThreads, loop: Loop, handler: RunnerHandler) -> None:
        # Now, and not when a runner is there: if the import fails then, the engine fails.
        from dragonfly_executor.sync import Sender

        self._make_sender = Sender
        self._file_snapshot = file_snapshot
        self._workers = workers
        self._loop = loop
        self._handler = handler

    def start(self, runner: RunnerLink, on_synced: Callable[[], object]) -> Sender:
        """Return a new sender for the runner. It calls `on_synced` each time that the runner has all files."""
        receiver = SyncReceiver(runner, on_synced, self._handler)
        run, on_engine = self._workers.run, self._loop.call_soon_threadsafe
        sender = self._make_sender(self._file_snapshot, runner, receiver, run, on_engine)
        runner.file_updates.use_sender(sender)
        return sender


class SyncReceiver:
    """A receiver of the sync events of one runner, during its boot and later.

    Args:
        runner: the runner.
        on_synced: called when the runner has all files.
        handler: gets the runner if a sync has failed.
    """

    def __init__(self, runner: RunnerLink, on_synced: Callable[[], object], handler: RunnerHandler) -> None:
        self._runner = runner
        self._on_synced = on_synced
        self._handler = handler

    def synced(self) -> None:
        """See `sync.sender.SyncListener`."""
        self._runner.file_updates.arrived()
        self._on_synced()

    def sync_failed(self, phase: str, text: str) -> None:
        """Report a failed sync. The calls that the runner held back have not started, and will not."""
        runner = self._runner
        runner.never_left |= runner.file_updates.held
        self._handler.runner_broke(runner, errors.BootError(f"{runner.name}: {text}", phase))
