"""The Dask backend keeps the contract of all backends, on a real Dask."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor.backends.base import Backend
from dragonfly_executor.backends.dask.backend import DaskBackend
from dragonfly_executor.backends.dask.scheduler import Worker
from dragonfly_executor.testing import BackendContract
from tests.support.dask_cluster import DaskCluster
from tests.support.helpers import PATIENCE, all_ended, watching

pytestmark = pytest.mark.engine


class TestDaskBackend(BackendContract):
    @pytest.fixture(autouse=True)
    def _cluster(
        self, cluster: DaskCluster, make_backend: Callable[..., DaskBackend], tmp_path: Path
    ) -> Iterator[None]:
        self.cluster, self.make_backend, self.folder = cluster, make_backend, tmp_path  # type: ignore[method-assign]
        with ExitStack() as self.stack:
            yield

    def make_broken_backend(self) -> Backend:
        return self.make_backend(python="/nowhere/python")

    def kill(self, node: Any) -> None:
        with watching(node.task.pid) as agent:
            os.kill(node.task.pid, signal.SIGKILL)
            assert all_ended(agent)

    def left_running(self, backend: Backend) -> Sequence[object]:
        return self.cluster.agents()

    def hanging_steps(self) -> Sequence[str]:
        return ["scheduler", "worker", "runner"]

    def make_hanging_backend(self, step: str) -> tuple[Backend, Callable[[], object]]:
        if step == "scheduler":
            silent = self.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            backend = DaskBackend(f"127.0.0.1:{silent.getsockname()[1]}", sync=None)
            return backend, lambda: self.stack.enter_context(silent.accept()[0])
        if step == "worker":
            backend = self.make_backend(resources={"UNOBTAINIUM": 1})
            looks, fits = threading.Semaphore(0), backend._wanted.fits

            def look(worker: Worker) -> bool:
                looks.release()
                return fits(worker)

            backend._wanted.fits = look  # type: ignore[method-assign]
            return backend, lambda: looks.acquire(timeout=PATIENCE)
        told = self.folder / "told"
        os.mkfifo(told)
        program = self.folder / "runner"
        program.write_text(f"#!/bin/sh\necho > {told}\nexec sleep 1000\n")
        program.chmod(0o755)
        return self.make_backend(python=str(program)), told.read_text
