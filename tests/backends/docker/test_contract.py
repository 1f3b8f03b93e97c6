"""The Docker backend keeps the contract of all backends, on a fake Engine with real processes, and on a real Engine."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor.backends.base import Backend
from dragonfly_executor.backends.docker.backend import SOCKET, DockerBackend
from dragonfly_executor.testing import BackendContract
from tests.support.fake_docker import FakeDocker
from tests.support.helpers import PATIENCE, SOON


class TestDockerBackend(BackendContract):
    pytestmark = pytest.mark.slow
    give_up_patience = SOON

    @pytest.fixture(autouse=True)
    def _engine(self, docker: FakeDocker, make_backend: Callable[..., DockerBackend]) -> None:
        self.docker, self.make_backend = docker, make_backend  # type: ignore[method-assign]

    def make_broken_backend(self) -> Backend:
        return self.make_backend("not-there:1")

    def kill(self, node: Any) -> None:
        self.docker.containers[node.name].kill()

    def left_running(self, backend: Any) -> Sequence[object]:
        return [*self.docker.containers, *backend.journal.entries()]

    def hanging_steps(self) -> Sequence[str]:
        return ["/create", "/start"]

    def make_hanging_backend(self, step: str) -> tuple[Backend, Callable[[], object]]:
        self.docker.hanging = [step]
        self.docker.hangs.clear()
        return self.make_backend(), lambda: self.docker.hangs.wait(PATIENCE)


def why_no_engine() -> str:
    """Say why no real Engine can be used here; "" if one can."""
    if not os.environ.get("DOCKER_LIVE_IMAGE"):
        return "set DOCKER_LIVE_IMAGE to an image with this version of Python and of dragonfly_executor"
    try:
        with closing(socket.socket(socket.AF_UNIX)) as sock:
            sock.connect(SOCKET)
    except OSError as error:
        return f"no Docker Engine listens at {SOCKET}: {error}"
    return ""


@pytest.mark.engine
class TestDockerBackendOnARealEngine(BackendContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        if why := why_no_engine():
            pytest.skip(why)
        self.folder = tmp_path

    def make_backend(self) -> DockerBackend:
        return DockerBackend(os.environ["DOCKER_LIVE_IMAGE"], sync=None, journal=self.folder / "journal")

    def make_broken_backend(self) -> Backend:
        return DockerBackend("dragonfly-not-there:1", sync=None, journal=self.folder / "journal")

    def kill(self, node: Any) -> None:
        subprocess.run(["docker", "kill", node.name], check=True, capture_output=True)

    def left_running(self, backend: Any) -> Sequence[object]:
        return [found for found in backend.list_nodes() if found.in_journal]
