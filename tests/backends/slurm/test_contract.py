"""The Slurm backend keeps the contract of all backends, on a real Slurm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor.backends.base import Backend
from dragonfly_executor.backends.slurm.backend import SlurmBackend
from dragonfly_executor.testing import BackendContract
from tests.support.silent_program import silent_program
from tests.support.slurm_cluster import SlurmCluster

pytestmark = pytest.mark.engine


class TestSlurmBackend(BackendContract):
    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: SlurmCluster, make_backend: Callable[..., SlurmBackend], tmp_path: Path) -> None:
        self.cluster, self.make_backend, self.folder = cluster, make_backend, tmp_path  # type: ignore[method-assign]

    def make_broken_backend(self) -> Backend:
        return self.make_backend(partition="there-is-none")

    def kill(self, node: Any) -> None:
        self.cluster.run("scancel", "--full", "--signal=KILL", node.job_id)
        self.cluster.wait_until(lambda: node.job_id not in self.cluster.jobs(), "the end of the job")

    def left_running(self, backend: Backend) -> Sequence[object]:
        return self.cluster.jobs()

    def hanging_steps(self) -> Sequence[str]:
        return ["sbatch", "queue", "runner"]

    def make_hanging_backend(self, step: str) -> tuple[Backend, Callable[[], object]]:
        if step == "queue":
            backend = self.make_backend(options={"begin": "now+1hour"})
            return backend, lambda: self.cluster.wait_until(self.cluster.jobs, "a job in the queue")
        folder = self.folder / step
        folder.mkdir()
        program, wait = silent_program(folder / step)
        if step == "runner":
            return self.make_backend(python=program), wait
        path = f"{folder}:{self.cluster.env['PATH']}"
        return self.make_backend(command_env={**self.cluster.env, "PATH": path}), wait
