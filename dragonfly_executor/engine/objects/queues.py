"""Serves multiprocessing's queues. Their items pass through the parent as pickles, which it does not open."""

from __future__ import annotations

import pickle
import queue
import time
from types import SimpleNamespace

from dragonfly_executor.engine.objects.pipe_writes import send_in_steps
from dragonfly_executor.engine.objects.request import LATER, ServedObject
from dragonfly_executor.engine.objects.semaphores import STEP, HeldSemaphores, InnerSemaphore
from dragonfly_executor.engine.objects.synchronization import inner_condition, seconds
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dragonfly_executor.engine.objects.request import Request


class PickledItem:
    """An item of a queue that is pickled already. The receiver from the queue gets the object itself."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __reduce__(self) -> Any:
        return pickle.loads, (self._data,)


def wait_in_steps(attempt: Callable[[float], bool], request: Request, timeout: float | None) -> bool:
    """Call `attempt` with the seconds that it may wait, until it returns True or the time is over."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = STEP if deadline is None else min(STEP, max(0.0, deadline - time.monotonic()))
        if attempt(left):
            return True
        request.check()
        if deadline is not None and time.monotonic() >= deadline:
            return False


def received(real: Any, request: Request, block: bool, timeout: float | None) -> bytes:
    """Return the pickle of the next item of a queue.

    Raises:
        queue.Empty: no item came in time.
    """
    timeout = timeout if block else 0.0
    deadline = None if timeout is None else time.monotonic() + timeout
    lock = InnerSemaphore(real._rlock, request.check)  # noqa: SLF001
    if not lock.acquire(block, timeout):
        raise queue.Empty
    try:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not wait_in_steps(real._reader.poll, request, left):  # noqa: SLF001
            raise queue.Empty
        request.check()
        return real._reader.recv_bytes()  # type: ignore[no-any-return]  # noqa: SLF001
    finally:
        lock.release()


class ServedQueue(ServedObject):
    """Serves a `Queue`."""

    METHODS = frozenset({"put", "get", "qsize", "empty", "full"})
    WAITING = frozenset({"put", "get"})

    def __init__(self, value: Any, semaphores: HeldSemaphores, shielded: Callable[[], object]) -> None:
        self._real = value

    def now(self, request: Request) -> Any:
        """See `ServedObject`."""
        if request.method != "put":
            return LATER
        data, block, timeout = request.args
        try:
            # Its own thread writes the item to the pipe.
            return self._real.put(PickledItem(data), False)
        except queue.Full:
            if not block or seconds(timeout) == 0:
                raise
            return LATER

    def run(self, request: Request) -> Any:
        """See `ServedObject`."""
        if request.method == "put":
            return self._put(request)
        if request.method == "get":
            block, timeout = request.args
            data = received(self._real, request, bool(block), seconds(timeout))
            self._real._sem.release()  # noqa: SLF001
            return data
        return getattr(self._real, request.method)()

    def _put(self, request: Request) -> None:
        data, block, timeout = request.args

        def attempt(step: float) -> bool:
            """Put the item, if there is room within a step."""
            try:
                self._real.put(PickledItem(data), bool(block), step)
            except queue.Full:
                return False
            return True

        if not wait_in_steps(attempt, request, seconds(timeout) if block else 0.0):
            raise queue.Full


class ServedJoinableQueue(ServedQueue):
    """Serves a `JoinableQueue`."""

    METHODS = ServedQueue.METHODS | {"task_done", "join"}
    WAITING = ServedQueue.WAITING | {"join"}

    def __init__(self, value: Any, semaphores: HeldSemaphores, shielded: Callable[[], object]) -> None:
        super().__init__(value, semaphores, shielded)
        self._shielded = shielded

    def now(self, request: Request) -> Any:
        """See `ServedObject`."""
        return LATER  # also a put takes a lock that another process may hold

    def run(self, request: Request) -> Any:
        """See `ServedObject`."""
        if request.method not in ("task_done", "join"):
            return super().run(request)
        from multiprocessing.queues import JoinableQueue

        real = self._real
        stand_in: Any = SimpleNamespace(
            _cond=inner_condition(real._cond, request.check, self._shielded),  # noqa: SLF001
            _unfinished_tasks=InnerSemaphore(real._unfinished_tasks, self._shielded),  # noqa: SLF001
        )
        return getattr(JoinableQueue, request.method)(stand_in)


class ServedSimpleQueue(ServedObject):
    """Serves a `SimpleQueue`."""

    METHODS = frozenset({"put", "get", "empty"})
    WAITING = frozenset({"put", "get"})

    def __init__(self, value: Any, semaphores: HeldSemaphores, shielded: Callable[[], object]) -> None:
        self._real = value
        self._shielded = shielded

    def run(self, request: Request) -> Any:
        """See `ServedObject`."""
        if request.method == "get":
            return received(self._real, request, True, None)
        if request.method == "empty":
            return self._real.empty()
        with InnerSemaphore(self._real._wlock, request.check):  # noqa: SLF001
            return send_in_steps(self._real._writer, request.args[0], request.check, self._shielded)  # noqa: SLF001


SERVED = {"Queue": ServedQueue, "JoinableQueue": ServedJoinableQueue, "SimpleQueue": ServedSimpleQueue}
