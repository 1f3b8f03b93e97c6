"""Serves the ends of multiprocessing's pipes. Messages pass as bytes, which the parent does not open."""

from __future__ import annotations

import threading

from dragonfly_executor.engine.objects.pipe_writes import send_in_steps
from dragonfly_executor.engine.objects.queues import wait_in_steps
from dragonfly_executor.engine.objects.request import ServedObject
from dragonfly_executor.engine.objects.semaphores import HeldSemaphores
from dragonfly_executor.engine.objects.synchronization import seconds
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dragonfly_executor.engine.objects.request import Request


class ServedConnection(ServedObject):
    """Serves one end of a pipe. One thread at a time sends, and one receives."""

    METHODS = frozenset({"send", "receive", "poll"})
    WAITING = METHODS

    def __init__(self, value: Any, semaphores: HeldSemaphores, shielded: Callable[[], object]) -> None:
        self._real = value
        self._shielded = shielded
        self._sends = threading.Lock()
        self._receives = threading.Lock()

    def run(self, request: Request) -> Any:
        """See `ServedObject`."""
        argument = request.args[0]
        if request.method == "poll":
            return wait_in_steps(self._real.poll, request, seconds(argument))
        lock = self._sends if request.method == "send" else self._receives
        wait_in_steps(lambda step: lock.acquire(timeout=step), request, None)
        try:
            if request.method == "send":
                return send_in_steps(self._real, argument, request.check, self._shielded)
            wait_in_steps(self._real.poll, request, None)
            request.check()
            return self._real.recv_bytes(argument)
        finally:
            lock.release()


SERVED = {"Connection": ServedConnection}
