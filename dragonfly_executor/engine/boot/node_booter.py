"""Hands nodes over from the backend's threads to the engine thread, so that none is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable

from dragonfly_executor import errors
from dragonfly_executor.serialization import exceptions
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.backends.base import Backend, BootRequest, Node
    from dragonfly_executor.sync import FileSnapshot
    from dragonfly_executor.transport.loop import Loop

SHORTAGES = (ImportError, MemoryError, OSError, RuntimeError)
"""Errors when there is no memory, no descriptor, or (RuntimeError) no thread for the link to a node."""


class NodeBooter:
    """A hand-over of nodes that a backend boots.

    Args:
        backend: boots the nodes.
        file_snapshot: the files that remote runners need; None if the runners see this machine's files.
        loop: the engine's loop.
        enter: begins a runner's boot on the boot workers; returns False if the pool does not need the runner any more.
        on_node: gets a runner's node, on the engine thread.
        on_error: gets the error of a failed boot, on the engine thread.
        stop: releases a node that was not taken yet.
    """

    def __init__(
        self,
        backend: Backend,
        file_snapshot: FileSnapshot | None,
        loop: Loop,
        *,
        enter: Callable[[int], bool],
        on_node: Callable[[int, Node], None],
        on_error: Callable[[int, errors.BootError], None],
        stop: Callable[[Node], None],
    ) -> None:
        self._backend = backend
        self._file_snapshot = file_snapshot
        self._loop = loop
        self._enter = enter
        self._on_node = on_node
        self._on_error = on_error
        self._stop = stop
        self._handover = threading.Lock()
        self._arrived: dict[int, Node] = {}
        self._ended = False

    def boot(self, request: BootRequest) -> None:
        """Boot a node, and hand it over. Runs on the boot workers, and blocks."""
        runner_id = request.runner_id
        if not self._enter(runner_id):
            return
        try:
            node = self._make_node(request)
        except BaseException as raised:  # a backend may be third-party code, and may even call sys.exit()
            self._fail(runner_id, raised)
            return
        with self._handover:
            if not self._ended:
                self._arrived[runner_id] = node
                self._loop.call_soon_threadsafe(lambda: self._take(runner_id))
                return
        node.stop()

    def _make_node(self, request: BootRequest) -> Node:
        """Return a node from the backend. The errors are loaded while the node's runner starts."""
        if self._file_snapshot is not None:
            self._file_snapshot.look()
            self._file_snapshot.require()
        # The backend asks for the node from here on, unless it reports that it waits for its turn.
        request.started()
        node = self._backend.boot(request)
        request.started()
        try:
            errors.load()
        except errors.StartError:
            node.stop()
            raise
        return node

    def _fail(self, runner_id: int, raised: BaseException) -> None:
        """Tell the engine thread why there is no node."""
        try:
            error = as_boot_error(raised)
        except errors.StartError as shortage:
            # Not even the errors can be loaded, so the engine fails with this error.
            self._loop.call_soon_threadsafe(_raiser(shortage))
            return
        self._loop.call_soon_threadsafe(lambda: self._on_error(runner_id, error))

    def _take(self, runner_id: int) -> None:
        node = self._arrived.get(runner_id)
        if node is None:
            return  # `close` ran meanwhile, and has released it
        self._on_node(runner_id, node)
        # Last, because until now no other object has the node.
        self._arrived.pop(runner_id, None)

    def close(self) -> None:
        """Release nodes that were not taken yet. Nodes that come later are released, too."""
        with self._handover:
            self._ended = True
        while self._arrived:
            self._stop(self._arrived.popitem()[1])


def _raiser(error: Exception) -> Callable[[], object]:
    def fail() -> None:
        raise error

    return fail


def as_boot_error(error: BaseException, phase: str = "create") -> errors.BootError:
    """Return a `BootError` for an error of a backend, or for the end of a link, during a boot.

    That is the error itself if it is a `BootError` with all attributes that a pool reads. Its class may be third-party
    code.
    """
    if isinstance(error, errors.BootError) and _is_whole(error):
        return error
    name = exceptions.qualified_name(type(error)).rpartition(".")[2]
    boot_error = errors.BootError(f"{name}: {exceptions.text_of(error)}", phase)
    boot_error.__cause__ = error
    return boot_error


def _is_whole(error: errors.BootError) -> bool:
    """Return True if the error has all attributes of a `BootError`, so that none raises on the engine thread."""
    try:
        str(error)
        error.attempts = error.attempts
        error.output = error.output
        return isinstance(error.phase, str) and isinstance(error.final, bool)
    except Exception:
        return False
