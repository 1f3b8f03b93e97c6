"""`EngineTaskBackend`: boots each runner as a task of a cluster engine, and waits until a worker has started it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dragonfly_executor.backends.agent_command import runner_options
from dragonfly_executor.backends.base import Backend, BootRequest
from dragonfly_executor.backends.engine_tasks.node import EngineTaskNode
from dragonfly_executor.backends.shared_client import EngineClient, SharedClient
from dragonfly_executor.errors import BootError, BootTimeoutError
from dragonfly_executor.sync.options import Sync
from dragonfly_executor.util.validation import duration, whole

if TYPE_CHECKING:
    from typing import Unpack

    from dragonfly_executor.backends.engine_tasks.task import EngineTask
    from dragonfly_executor.backends.tier_keywords import TierKeywords
    from dragonfly_executor.util.validation import Seconds

INFINITY = float("inf")
UNDO_TIMEOUT = 1.5
"""Seconds for stopping the runner of a boot that was cancelled, which must end within 2 s."""

C = TypeVar("C", bound=EngineClient)
N = TypeVar("N", bound=EngineTaskNode[Any])


class EngineTaskBackend(Backend, Generic[C, N]):
    """Boots runners as tasks of an engine. All of its boots and nodes share one client of the engine.

    Args:
        python: the interpreter of the runners; None for that of the worker.
        env: environment variables for the runners, in addition to those of the worker.
        host: the address of this machine that the workers dial; None for the one from which it reaches the engine.
        port: the port to listen on; 0 for any free port.
        queue_timeout: seconds (or a `timedelta`) that a boot may wait for a worker; None for no limit.
        sync: which files of this program are sent to the runners; None if the workers see them.
        requirements: third-party packages to install on each node.
        tier: `max`, `idle_shutdown_after` and `budget` of the runners of this backend; see `Backend.set_limits`.

    Raises:
        TypeError, ValueError: an argument is invalid.
    """

    dials_back = True
    expected_boot_time = 5.0
    default_boot_timeout = 60.0
    phases = ("create", "queue", "connect", "handshake", "sync", "requirements")
    _no_worker: str
    """Error of a boot that has waited for `queue_timeout`, a format string with the field `seconds`."""

    def __init__(
        self,
        *,
        python: str | None,
        env: Mapping[str, str] | None,
        host: str | None,
        port: int,
        queue_timeout: Seconds | None,
        sync: Sync | str | Iterable[str | os.PathLike[str]] | None,
        requirements: Iterable[str] | str | os.PathLike[str] | None,
        **tier: Unpack[TierKeywords],
    ) -> None:
        self.set_limits(**tier)
        files = Sync.of(sync, requirements)
        self._shares_disk = sync is None and requirements is None
        self.sync = None if self._shares_disk else files
        self._python, self._env = python, dict(env or {})
        self._host, self._port = host, whole(port, "port", 0)
        self._queue_timeout = INFINITY if queue_timeout is None else duration(queue_timeout, "queue_timeout")
        self._shared: SharedClient[C] = SharedClient(self._connect)

    def listen_address(self) -> tuple[str, int]:
        """See `Backend.listen_address`."""
        return self._host or self._own_address(), self._port

    def boot(self, request: BootRequest) -> N:
        """See `Backend.boot`. The boot waits for a worker inside of this method."""
        client = self._shared.acquire()
        try:
            node = self._make_node(client, request)
        except BaseException:
            self._shared.release(client)
            raise
        try:
            request.queued()
            self._queue(node, client, request)
            node.placed()
            self._check_begun(node, request)
        except BaseException:
            node.stop(UNDO_TIMEOUT)
            raise
        request.started()
        return node

    def _check_begun(self, node: N, request: BootRequest) -> None:
        """Check that the runner was started. A runner that has dialed back was, even if the engine has yet to say so.

        Raises:
            BootError: the runner did not start.
        """
        task: EngineTask = node.task
        if request.given_up is not None and request.given_up.is_set():
            raise BootError("the boot was cancelled", "queue")
        if request.dialed_in is not None and request.dialed_in.is_set():
            return
        if task.ended.is_set():
            raise node.error_of_end("queue")
        if not task.begun.is_set():
            raise BootTimeoutError(self._no_worker.format(seconds=f"{self._queue_timeout:g}"), "queue")

    def _task_key(self, request: BootRequest) -> str:
        """Return a name for the task of a boot, which no other task of the engine has."""
        return f"dragonfly-runner-{request.runner_id}-{os.urandom(6).hex()}"

    def _order(self, request: BootRequest) -> dict[str, Any]:
        """Return the arguments for `AgentProcess` on the worker."""
        return {
            "parent": request.parent.encode(), "python": self._python, "options": runner_options(), "env": self._env,
        }  # fmt: skip

    # -- what the engines differ in ------------------------------------------------------------------------------------

    def _connect(self) -> C:
        """Make a client of the engine."""
        raise NotImplementedError

    def _own_address(self) -> str:
        """Return the address of this machine from which it reaches the engine."""
        raise NotImplementedError

    def _make_node(self, client: C, request: BootRequest) -> N:
        """Wait until the client is connected, and make the node of a boot. Its `on_stopped` releases the client.

        Raises:
            BootError: the engine cannot be reached.
        """
        raise NotImplementedError

    def _queue(self, node: N, client: C, request: BootRequest) -> None:
        """Wait until the task has begun. Return earlier if `queue_timeout` passes, or a signal of the request is set.

        Raises:
            BootError: the engine does not answer.
        """
        raise NotImplementedError


def arguments_from_text(settings: Mapping[str, str], **readers: Callable[[str], Any]) -> dict[str, Any]:
    """Return arguments for a backend of texts, as a command line gives them. A text without a reader stays as it is.

    Args:
        settings: texts by the name of their argument.
        readers: what reads the texts of the arguments that only this backend has.

    Raises:
        ValueError: a text cannot be read.
    """
    known: dict[str, Callable[[str], Any]] = {
        "port": int,
        "queue_timeout": float,
        "resources": _amounts,
        "sync": _sync,
        **readers,
    }
    arguments: dict[str, Any] = {}
    for name, text in settings.items():
        try:
            arguments[name] = known[name](text) if name in known else text
        except ValueError as error:
            raise ValueError(f"cannot read {name}={text}: {error}") from error
    return arguments


def _amounts(text: str) -> dict[str, float]:
    """Read "GPU=1 MEM=4e9"."""
    pairs = [word.partition("=") for word in text.split()]
    if not all(amount for _, _, amount in pairs):
        raise ValueError("write NAME=AMOUNT, and a space between two of them")
    return {name: float(amount) for name, _, amount in pairs}


def _sync(text: str) -> str | None:
    """Read the mode of sync; "none" stands for None."""
    return None if text == "none" else text
