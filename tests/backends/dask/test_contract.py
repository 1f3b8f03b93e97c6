"""The Dask backend keeps the contract of all backends, on a real Dask."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from dragonfly_executor.backends.base import Backend
from dragonfly_executor.backends.dask.backend import DaskBackend
from tests.support.engine_tasks import EngineTaskContract
from tests.support.helpers import PATIENCE

pytestmark = pytest.mark.engine


class TestDaskBackend(EngineTaskContract):
    def hanging_steps(self) -> Sequence[str]:
        return ["scheduler", "worker", "runner"]

    def make_hanging_backend(self, step: str) -> tuple[Backend, Callable[[], object]]:
        if step == "scheduler":
            silent = self.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            backend = DaskBackend(f"127.0.0.1:{silent.getsockname()[1]}", sync=None)
            return backend, lambda: self.stack.enter_context(silent.accept()[0])
        if step == "worker":
            backend = self.make_backend(resources={"UNOBTAINIUM": 1})
            assert isinstance(backend, DaskBackend)
            return backend, self._watch_queue(backend)
        return self.make_backend_with_silent_runner()

    def _watch_queue(self, backend: DaskBackend) -> Callable[[], object]:
        """Return a function that waits until a task was queued."""
        queued, queue = threading.Semaphore(0), backend._queue

        def tell(*arguments: Any) -> None:
            queue(*arguments)
            queued.release()

        backend._queue = tell  # type: ignore[method-assign]
        return lambda: queued.acquire(timeout=PATIENCE)
