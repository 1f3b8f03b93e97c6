"""`EngineTaskNode`: a runner's task in a cluster engine, as a node."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from dragonfly_executor.backends.base import BootRequest, CancelToken, Node
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.engine_tasks.task import EngineTask
from dragonfly_executor.errors import BootError, BootTimeoutError

STOP_TIMEOUT = 10.0
"""Seconds that a stop may take. A runner that the engine does not stop ends by itself, as its link has ended."""
QUEUED_STOP_TIMEOUT = 1.5
"""Seconds for that if the task waits in the engine's queue. A pool that ends waits for this."""
GRACE = 2.0
"""Seconds that a runner has to end by itself, once its link is closed."""
GRACE_WITHOUT_SLOTS = 0.2
"""Seconds that a runner without slots has: it has nothing to end first."""
LOSS_WAIT = 2.0
"""Seconds to wait for the reason why a runner was lost. The engine may notice the loss later than its link."""

T = TypeVar("T", bound=EngineTask)


class EngineTaskNode(Node, Generic[T]):
    """A task that waits in the engine's queue, or has a worker.

    Args:
        task: the runner's task.
        request: is notified when the task begins, and reports that its runner has dialed back.
        shares_disk: whether the workers see the files of this machine.
        on_stopped: called once, when the node is stopped.
    """

    def __init__(self, task: T, request: BootRequest, *, shares_disk: bool, on_stopped: Callable[[], object]) -> None:
        self.task = task
        self.shares_disk = shares_disk
        self._request = request
        self._on_stopped = on_stopped
        self._stopped = CancelToken()
        self._lock = threading.Lock()
        self._queue_timeout = float("inf")
        self._in_queue = Deadline(self._queue_timeout)

    def placed(self) -> None:
        """Take over what the task says about its worker, if it has one."""
        raise NotImplementedError

    def wait_in_queue(self, seconds: float) -> None:
        """Wait for a worker, for this time at most. The boot's timer starts when the task begins there."""
        self._queue_timeout, self._in_queue = seconds, Deadline(seconds)
        self.is_queued = True
        self.task.begun.call(self._has_started)
        if self._request.dialed_in is not None:
            # A runner that has dialed back was started, even if the engine has yet to say so.
            self._request.dialed_in.call(self._has_started)

    def _has_started(self) -> None:
        self.placed()
        with self._lock:
            if not self.is_queued:
                return
            self.is_queued = False
        self._request.started()

    def progress(self) -> str:
        """See `Node.progress`."""
        return self.task.standing

    def ended(self, wait: float) -> BootError | None:
        """See `Node.ended`."""
        seconds = self._in_queue.left(wait) if self.is_queued else wait
        Deadline(seconds, self._stopped, self.task.ended).pause(seconds)
        if self._stopped.is_set():
            return None
        if self.task.ended.is_set():
            return self.error_of_end("queue" if self.is_queued else "connect")
        if self.is_queued and self._in_queue.is_over:
            standing = self.progress() or "the runner waits in the engine's queue"
            text = f"{standing}. It did not start within {self._queue_timeout:g} s (queue_timeout)"
            return BootTimeoutError(f"{text}: {self._advice()}", "queue")
        return None

    def _advice(self) -> str:
        """Return the remedy for a task that the engine does not start."""
        return "raise queue_timeout, or require less"

    def error_of_end(self, phase: str) -> BootError:
        """Return the error of a boot whose runner has ended."""
        return BootError(self.task.error, phase, output=self.task.output, final=self.task.is_final)

    def explain_loss(self) -> str:
        """See `Node.explain_loss`."""
        Deadline(LOSS_WAIT, self._stopped, self.task.ended).pause(LOSS_WAIT)
        return self.task.error

    def stop(self, timeout: float | None = None) -> None:
        """See `Node.stop`.

        Args:
            timeout: seconds that it may take. After that a warning names the task. Default: depends on its state.
        """
        with self._lock:
            if self._stopped.is_set():
                return
            self._stopped.set()
        if timeout is None:
            timeout = QUEUED_STOP_TIMEOUT if self.is_queued else STOP_TIMEOUT
        grace = 0.0 if self.is_silent else GRACE if self.sessions else GRACE_WITHOUT_SLOTS
        try:
            self._stop_task(grace, timeout)
        finally:
            self._on_stopped()

    def _stop_task(self, grace: float, timeout: float) -> None:
        """Have the engine stop the task. Never raises.

        Args:
            grace: seconds that the runner has to end by itself.
            timeout: seconds that this may take.
        """
        raise NotImplementedError

    def output(self) -> str:
        """See `Node.output`."""
        return self.task.output
