"""The Dask backend keeps the contract of all backends, on a real Dask."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

import pytest

from dragonfly_executor.backends.base import Backend
from dragonfly_executor.backends.dask.backend import DaskBackend
from tests.support.engine_tasks import EngineTaskContract

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
            return self.make_backend_that_waits("UNOBTAINIUM")
        return self.make_backend_with_silent_runner()
