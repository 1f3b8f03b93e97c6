"""Nodes come from the threads on which backends boot them to the engine's, and none is lost on the way."""

from __future__ import annotations

import threading
from collections.abc import Callable

from dragonfly_executor import errors
from dragonfly_executor.serialization import exceptions

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from dragonfly_executor.backends.base import Backend, BootRequest, Node
    from dragonfly_executor.sync import Keeper
    from dragonfly_executor.transport.loop import Loop

SHORTAGES = (ImportError, MemoryError, OSError, RuntimeError)
"""What is raised where there is no memory, no descriptor, or (RuntimeError) no thread for the link to a node."""


class Arrivals:
    """Has a backend boot nodes, and hands each over.

    Args:
        backend: whose nodes they are.
        keeper: knows what runners elsewhere need; None where they see this machine's files.
        loop: the engine's.
        enter: on the boot crew; begins a runner's boot, or returns False if the pool does not want the runner any more.
        on_node: gets a runner's node, on the engine thread.
        on_error: gets why there is none, on the engine thread.
        stop: gives a node back that nobody has asked for yet.
    """

    def __init__(
        self,
        backend: Backend,
        keeper: Keeper | None,
        loop: Loop,
        *,
        enter: Callable[[int], bool],
        on_node: Callable[[int, Node], None],
        on_error: Callable[[int, errors.BootError], None],
        stop: Callable[[Node], None],
    ) -> None:
        self._backend = backend
        self._keeper = keeper
        self._loop = loop
        self._enter = enter
        self._on_node = on_node
        self._on_error = on_error
        self._stop = stop
        self._handover = threading.Lock()
        self._arrived: dict[int, Node] = {}
        self._ended = False

    def boot(self, request: BootRequest) -> None:
        """Boot one, and hand it over. On the boot crew; blocks."""
        runner_id = request.runner_id
        if not self._enter(runner_id):
            return
        try:
            node = self._make_node(request)
        except BaseException as raised:  # a backend may be anybody's, and may even call sys.exit()
            self._fail(runner_id, raised)
            return
        with self._handover:
            if not self._ended:
                self._arrived[runner_id] = node
                self._loop.call_soon_threadsafe(lambda: self._take(runner_id))
                return
        node.stop()

    def _make_node(self, request: BootRequest) -> Node:
        """Have the backend boot a node; and load the errors, while the node's runner starts."""
        if self._keeper is not None:
            self._keeper.look()
            self._keeper.require()
        # The backend asks for the node from here on, unless it says that it waits for its turn.
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
            # Not even the errors can be loaded: the engine ends of this one.
            self._loop.call_soon_threadsafe(_raiser(shortage))
            return
        self._loop.call_soon_threadsafe(lambda: self._on_error(runner_id, error))

    def _take(self, runner_id: int) -> None:
        node = self._arrived.get(runner_id)
        if node is None:
            return  # `close` came in between, and has given it back
        self._on_node(runner_id, node)
        # Not before: until then nothing else knows the node.
        self._arrived.pop(runner_id, None)

    def close(self) -> None:
        """Nodes that nobody has asked for yet, or that come later, are given back."""
        with self._handover:
            self._ended = True
        while self._arrived:
            self._stop(self._arrived.popitem()[1])


def _raiser(error: Exception) -> Callable[[], object]:
    def fail() -> None:
        raise error

    return fail


def as_boot_error(error: BaseException, phase: str = "create") -> errors.BootError:
    """Return a `BootError` that says what a backend raised, or how a link ended, while a runner booted.

    That is the error itself if it is one, and if all that a pool asks of it can be had: its class may be anybody's.
    """
    if isinstance(error, errors.BootError) and _is_whole(error):
        return error
    name = exceptions.qualified_name(type(error)).rpartition(".")[2]
    boot_error = errors.BootError(f"{name}: {exceptions.text_of(error)}", phase)
    boot_error.__cause__ = error
    return boot_error


def _is_whole(error: errors.BootError) -> bool:
    """Return whether a boot's error can say what a `BootError` says, so that nothing raises on the engine thread."""
    try:
        str(error)
        error.attempts = error.attempts
        error.output = error.output
        return isinstance(error.phase, str) and isinstance(error.final, bool)
    except Exception:
        return False
