"""`SharedTasks`: all boots and nodes of a backend share one connection, which is open while there are any."""

from __future__ import annotations

import threading
from collections.abc import Callable

from dragonfly_executor.backends.dask.runner_tasks import RunnerTasks


class SharedTasks:
    """Connects to the scheduler when the first boot needs it, and closes the connection with the last node. Any thread.

    Args:
        connect: makes a connection.
    """

    def __init__(self, connect: Callable[[], RunnerTasks]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._uses: dict[RunnerTasks, int] = {}
        self._current: RunnerTasks | None = None

    def acquire(self) -> RunnerTasks:
        """Return the connection's tasks, for one boot and its node. `release` has to follow."""
        with self._lock:
            if self._current is None or self._current.connection.is_broken:
                self._current = self._connect()
            self._uses[self._current] = self._uses.get(self._current, 0) + 1
            return self._current

    def release(self, tasks: RunnerTasks) -> None:
        """Give a connection back, and close it if nothing else uses it."""
        with self._lock:
            self._uses[tasks] -= 1
            if self._uses[tasks]:
                return
            del self._uses[tasks]
            if self._current is tasks:
                self._current = None
        tasks.connection.close()
