"""The part of a boot that runs on the boot workers: the backend's `boot` or `boot_many`, which block.

Its node is handed to the engine thread so that no node is lost, whenever the pool ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from dragonfly_executor import errors
from dragonfly_executor.engine import first_runner
from dragonfly_executor.engine.boot.boot_errors import as_boot_error, copy_of, no_outcome
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from dragonfly_executor.backends.base import Backend, BootRequest, Node
    from dragonfly_executor.engine.boot.launched_node import LaunchedNode
    from dragonfly_executor.sync import FileSnapshot
    from dragonfly_executor.transport.loop import Loop


class NodeReceiver(Protocol):
    """The boot that waits for a node. The engine thread calls all of this."""

    def thread_started(self) -> None:
        """Start the timeout: a boot worker has taken the boot."""

    def node_arrived(self, node: Node) -> None:
        """Continue with the node."""

    def backend_raised(self, error: errors.BootError, *, is_shared: bool) -> None:
        """Fail, because the backend raised an error. `is_shared`: another boot of the same request reports it too."""


class NodeBooter:
    """A hand-over of nodes from the boot workers to the engine thread.

    Args:
        backend: boots the nodes.
        file_snapshot: the files that remote runners need; None if the runners see this machine's files.
        loop: the engine's loop.
        launched: a node that was launched ahead of its boot, if there is one.
    """

    def __init__(
        self,
        backend: Backend,
        file_snapshot: FileSnapshot | None,
        loop: Loop,
        launched: LaunchedNode | None = None,
    ) -> None:
        self._backend = backend
        self._file_snapshot = file_snapshot
        self._on_engine = loop.call_soon_threadsafe
        self._launched = launched
        self._lock = threading.Lock()
        self._untaken: dict[int, Node] = {}
        self._is_closed = False

    def boot(self, request: BootRequest, receiver: NodeReceiver) -> None:
        """Boot a node, and hand it to the receiver. Runs on the boot workers, and blocks."""
        self._on_engine(receiver.thread_started)
        try:
            self._read_files()
            # The backend asks for the node from here on, unless it reports that it waits for its turn.
            request.started()
            node = None if self._launched is None else self._launched.take_for(request.parent)
            self._accept(request, node or self._backend.boot(request), receiver)
        except BaseException as raised:  # a backend may be third-party code, and may even call sys.exit()
            self._fail(raised, receiver)

    def boot_many(self, boots: Sequence[tuple[BootRequest, NodeReceiver]]) -> None:
        """Boot nodes together, and hand each to its receiver at once. Runs on one boot worker, and blocks."""
        waiting = {request.runner_id: receiver for request, receiver in boots}
        for _, receiver in boots:
            self._on_engine(receiver.thread_started)
        requests = [request for request, _ in boots]
        try:
            self._read_files()
            for request in requests:
                request.started()
            for request, outcome in self._backend.boot_many(requests):
                if request.runner_id in waiting:
                    self._settle(request, outcome, waiting.pop(request.runner_id))
                elif not isinstance(outcome, BaseException):
                    # No boot waits for this node: a bug of the backend must not leave it behind.
                    outcome.stop()
        except BaseException as raised:  # as in `boot`
            self._fail_each(waiting.values(), raised)
        else:
            self._fail_each(waiting.values(), no_outcome(self._backend.name))

    def _read_files(self) -> None:
        """Read the files that remote runners need, unless they were read before."""
        if self._file_snapshot is not None:
            self._file_snapshot.scan()
            self._file_snapshot.require()

    def _settle(self, request: BootRequest, outcome: Node | errors.BootError, receiver: NodeReceiver) -> None:
        """Hand over one outcome of `boot_many`. An error concerns this boot alone."""
        try:
            if isinstance(outcome, BaseException):
                raise outcome
            self._accept(request, outcome, receiver)
        except BaseException as raised:  # as in `boot`
            self._fail(raised, receiver)

    def _accept(self, request: BootRequest, node: Node, receiver: NodeReceiver) -> None:
        """Hand a node to its receiver. While the runner starts, load the modules that the first HELLO needs.

        The errors come last, because they are needed before the first result, and take longest.
        """
        if not node.is_queued:
            request.started()
        try:
            first_runner.load()
        except errors.StartError:
            node.stop()
            raise
        with self._lock:
            is_closed = self._is_closed
            if not is_closed:
                self._untaken[request.runner_id] = node
                self._on_engine(lambda: self._hand_over(request.runner_id, receiver))
        if is_closed:
            node.stop()
            return
        with suppress(errors.StartError):  # the engine tries again once the runner is up
            errors.load()

    def _fail_each(self, receivers: Iterable[NodeReceiver], raised: BaseException) -> None:
        """Fail each boot with an error of its own, because its output and attempts are added to that."""
        for number, receiver in enumerate(receivers):
            self._fail(copy_of(raised) if number else raised, receiver, is_shared=number > 0)

    def _fail(self, raised: BaseException, receiver: NodeReceiver, *, is_shared: bool = False) -> None:
        """Tell the receiver why there is no node."""
        try:
            error = as_boot_error(raised)
        except errors.StartError as shortage:
            # Not even the errors can be loaded, so the engine fails with this error.
            self._on_engine(_raiser(shortage))
            return
        self._on_engine(lambda: receiver.backend_raised(error, is_shared=is_shared))

    def _hand_over(self, runner_id: int, receiver: NodeReceiver) -> None:
        node = self._untaken.get(runner_id)
        if node is None:
            return  # `close` ran meanwhile, and its caller has released the node
        receiver.node_arrived(node)
        # Last, because until now no other object has the node.
        self._untaken.pop(runner_id, None)

    def close(self) -> list[Node]:
        """Return the nodes that no boot has taken. Nodes that come later are stopped on their boot worker."""
        with self._lock:
            self._is_closed = True
        nodes = list(self._untaken.values())
        self._untaken.clear()
        launched = None if self._launched is None else self._launched.take()
        return nodes if launched is None else [*nodes, launched]


def _raiser(error: Exception) -> Callable[[], object]:
    def fail() -> None:
        raise error

    return fail


class BootJob:
    """A boot as a job of the boot workers. It can be cancelled until a worker takes it.

    Args:
        node_booter: boots the node.
        receiver: gets the node.
    """

    def __init__(self, node_booter: NodeBooter, receiver: NodeReceiver) -> None:
        self._node_booter = node_booter
        self.receiver = receiver
        self._lock = threading.Lock()
        self._is_cancelled = False
        self.has_begun = False
        """True once a worker has taken the job."""

    def run(self, request: BootRequest) -> None:
        """Boot a node on this thread, unless the job was cancelled."""
        if self.begin():
            self._node_booter.boot(request, self.receiver)

    def begin(self) -> bool:
        """Have this thread take the job. Returns False if the job was cancelled."""
        with self._lock:
            self.has_begun = not self._is_cancelled
            return self.has_begun

    def cancel(self) -> bool:
        """Prevent the job from beginning. Returns False if it has begun."""
        with self._lock:
            self._is_cancelled = not self.has_begun
            return self._is_cancelled


class PendingBootClock:
    """The `BootClock` of one boot, for any thread. It is stopped until the backend asks for the node.

    Args:
        on_engine: runs a function on the engine thread. The functions run in the order of these requests.
        on_change: gets True there when the clock starts, and False when it stops.
        on_end: called there once the end of the node is known, with the seconds until then and the reason.
    """

    def __init__(
        self,
        on_engine: Callable[[Callable[[], object]], object],
        on_change: Callable[[bool], object],
        on_end: Callable[[float, str], object],
    ) -> None:
        self._on_engine = on_engine
        self._on_change = on_change
        self._on_end = on_end
        self._lock = threading.Lock()
        self._runs = False

    def started(self) -> None:
        """See `BootClock`. Does nothing if the clock runs."""
        self._set(True)

    def queued(self) -> None:
        """See `BootClock`. Does nothing if the clock is stopped."""
        self._set(False)

    def ending(self, seconds: float, ended_by: str) -> None:
        """See `BootClock`."""
        self._on_engine(lambda: self._on_end(seconds, ended_by))

    def _set(self, runs: bool) -> None:
        with self._lock:
            if self._runs != runs:
                self._runs = runs
                self._on_engine(lambda: self._on_change(runs))
