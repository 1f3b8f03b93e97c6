"""The Ray backend keeps the contract of all backends, on a real Ray."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from dragonfly_executor.backends.base import Backend
from dragonfly_executor.backends.ray.backend import RayBackend
from tests.support.engine_tasks import EngineTaskContract
from tests.support.helpers import PATIENCE

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
            backend = self.make_backend(resources={"unobtainium": 1})
            assert isinstance(backend, RayBackend)
            return backend, self._watch_queue(backend)
        return self.make_backend_with_silent_runner()

    def _watch_queue(self, backend: RayBackend) -> Callable[[], object]:
        """Return a function that waits until the driver was asked for an actor."""
        queued, queue = threading.Semaphore(0), backend._queue

        def tell(*arguments: Any) -> None:
            queue(*arguments)
            queued.release()

        backend._queue = tell  # type: ignore[method-assign]
        return lambda: queued.acquire(timeout=PATIENCE)
