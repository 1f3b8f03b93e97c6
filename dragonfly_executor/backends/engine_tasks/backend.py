"""`EngineTaskBackend`: boots each runner as a task of a cluster engine, which queues it until a worker is free."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dragonfly_executor.backends.agent_command import runner_options
from dragonfly_executor.backends.base import Backend, BootRequest
from dragonfly_executor.backends.engine_tasks.node import EngineTaskNode
from dragonfly_executor.backends.shared_client import EngineClient, SharedClient
from dragonfly_executor.sync.options import Sync
from dragonfly_executor.util import validation
from dragonfly_executor.util.validation import duration, whole

if TYPE_CHECKING:
    from typing import Unpack

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
        labels: free labels of the runners.
        tier: `max`, `idle_shutdown_after` and `budget` of the runners of this backend; see `Backend.set_limits`.

    Raises:
        TypeError, ValueError: an argument is invalid.
    """

    dials_back = True
    expected_boot_time = 5.0
    default_boot_timeout = 60.0
    phases = ("create", "queue", "connect", "handshake", "sync", "requirements")

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
        labels: Iterable[str],
        **tier: Unpack[TierKeywords],
    ) -> None:
        self.set_limits(**tier)
        self.labels = validation.labels(labels, "labels")
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
        """See `Backend.boot`. The node that it returns waits for a worker."""
        client = self._shared.acquire()
        try:
            node = self._make_node(client, request)
        except BaseException:
            self._shared.release(client)
            raise
        try:
            request.queued()
            node.wait_in_queue(self._queue_timeout)
            self._queue(node, client)
        except BaseException:
            node.stop(UNDO_TIMEOUT)
            raise
        return node

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

    def _queue(self, node: N, client: C) -> None:
        """Hand the task to the engine. Must not wait for a worker: the task's `begun` is set when it has one."""
        raise NotImplementedError
