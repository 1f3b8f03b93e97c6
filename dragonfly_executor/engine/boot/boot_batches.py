"""Gathers boots that begin at once and require the same, for backends that ask for several nodes in one request."""

from __future__ import annotations

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from dragonfly_executor.backends.base import Backend, BootRequest
    from dragonfly_executor.engine.boot.node_booter import BootJob, NodeBooter
    from dragonfly_executor.engine.worker_threads import WorkerThreads
    from dragonfly_executor.transport.loop import Loop

    Batch: TypeAlias = Sequence[tuple[BootJob, BootRequest]]


class BootBatches:
    """The boots that are about to get a thread. It belongs to the engine thread.

    A batch is closed at the end of the loop's current pass. So it has the boots for which one event of the core has
    asked, or all boots that have waited for the listener, and no boot waits for others.

    Args:
        backend: boots the nodes.
        loop, workers: the pool's.
        node_booter: calls the backend on these workers.
    """

    def __init__(self, backend: Backend, loop: Loop, workers: WorkerThreads, node_booter: NodeBooter) -> None:
        self._backend = backend
        self._loop = loop
        self._workers = workers
        self._node_booter = node_booter
        self._open: list[tuple[BootJob, BootRequest]] = []

    def add(self, job: BootJob, request: BootRequest) -> None:
        """Have a boot worker run this job, with others that are alike if the backend boots several nodes at once."""
        if self._backend.max_boots_per_request <= 1:
            self._workers.run(job.run, request)
            return
        if not self._open:
            self._loop.call_soon(self._close)
        self._open.append((job, request))

    def _close(self) -> None:
        """Hand the boots to the workers, one batch to each."""
        # The oldest boot first: if some start later than others, or are aborted, the latest should be among them.
        boots, self._open = sorted(self._open, key=lambda boot: boot[1].runner_id), []
        alike: dict[str, list[tuple[BootJob, BootRequest]]] = {}
        for job, request in boots:
            key = "" if request.requires is None else request.requires.key
            alike.setdefault(key, []).append((job, request))
        size = max(1, self._backend.max_boots_per_request)
        for batch in alike.values():
            for start in range(0, len(batch), size):
                self._workers.run(self._run, batch[start : start + size])

    def _run(self, batch: Batch) -> None:
        """Boot the nodes of a batch on this thread, except those whose boots were cancelled."""
        begun = [(request, job.receiver) for job, request in batch if job.begin()]
        if len(begun) == 1:
            self._node_booter.boot(*begun[0])
        elif begun:
            self._node_booter.boot_many(begun)
