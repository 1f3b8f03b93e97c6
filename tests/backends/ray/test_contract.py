"""The Ray backend keeps the contract of all backends, on a real Ray."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

import pytest

from dragonfly_executor.backends.base import Backend
from dragonfly_executor.backends.ray.backend import RayBackend
from tests.support.engine_tasks import EngineTaskContract

pytestmark = pytest.mark.engine


class TestRayBackend(EngineTaskContract):
    def hanging_steps(self) -> Sequence[str]:
        return ["gcs", "queue", "runner"]

    def make_hanging_backend(self, step: str) -> tuple[Backend, Callable[[], object]]:
        if step == "gcs":
            # Ray takes this machine's own address for the loopback's.
            host = self.cluster.address.partition(":")[0]
            silent = self.stack.enter_context(socket.create_server((host, 0)))
            backend = RayBackend(f"{host}:{silent.getsockname()[1]}", sync=None)
            return backend, lambda: self.stack.enter_context(silent.accept()[0])
        if step == "queue":
            return self.make_backend_that_waits("unobtainium")
        return self.make_backend_with_silent_runner()
