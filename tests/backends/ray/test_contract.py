"""The Ray backend keeps the contract of all backends, on a real Ray."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor.backends.base import Backend
from dragonfly_executor.backends.ray.backend import RayBackend
from dragonfly_executor.backends.ray.driver_process import DriverProcess
from dragonfly_executor.testing import BackendContract
from tests.support.helpers import PATIENCE, all_ended, watching
from tests.support.ray_cluster import RayCluster

pytestmark = pytest.mark.engine


class TestRayBackend(BackendContract):
    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: RayCluster, make_backend: Callable[..., RayBackend], tmp_path: Path) -> Iterator[None]:
        self.cluster, self.make_backend, self.folder = cluster, make_backend, tmp_path  # type: ignore[method-assign]
        with ExitStack() as self.stack:
            yield

    def make_broken_backend(self) -> Backend:
        return self.make_backend(python="/nowhere/python")

    def kill(self, node: Any) -> None:
        with watching(node.actor.pid) as agent:
            os.kill(node.actor.pid, signal.SIGKILL)
            assert all_ended(agent)

    def left_running(self, backend: Backend) -> Sequence[object]:
        return self.cluster.agents()

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
            return backend, self._watch_boots(backend)
        told = self.folder / "told"
        os.mkfifo(told)
        program = self.folder / "runner"
        program.write_text(f"#!/bin/sh\necho > {told}\nexec sleep 1000\n")
        program.chmod(0o755)
        return self.make_backend(python=str(program)), told.read_text

    def _watch_boots(self, backend: RayBackend) -> Callable[[], object]:
        """Return a function that waits until the driver was asked for an actor."""
        import threading

        asked, connect = threading.Semaphore(0), backend._shared._connect

        def watched() -> DriverProcess:
            driver = connect()
            boot = driver.boot

            def tell(*arguments: Any) -> None:
                boot(*arguments)
                asked.release()

            driver.boot = tell  # type: ignore[method-assign]
            return driver

        backend._shared._connect = watched
        return lambda: asked.acquire(timeout=PATIENCE)
