"""The Dask backend keeps the contract of all backends, on a real Dask."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence

import pytest

from dragonfly_executor.backends.base import Backend
from dragonfly_executor.backends.dask.backend import DaskBackend
from dragonfly_executor.backends.dask.scheduler import Worker
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
            looks, fits = threading.Semaphore(0), backend._wanted.fits

            def look(worker: Worker) -> bool:
                looks.release()
                return fits(worker)

            backend._wanted.fits = look  # type: ignore[method-assign]
            return backend, lambda: looks.acquire(timeout=PATIENCE)
        return self.make_backend_with_silent_runner()
