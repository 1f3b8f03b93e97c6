"""A fake Docker Engine, and backends that use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor.backends.docker.backend import DockerBackend
from tests.support.fake_docker import IMAGE, FakeDocker


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDocker]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "engine").mkdir()
    docker = FakeDocker(tmp_path / "engine")
    yield docker
    docker.stop()


@pytest.fixture
def make_backend(docker: FakeDocker, tmp_path: Path) -> Callable[..., DockerBackend]:
    """Make a backend on the fake Engine. What is synced is the business of other tests."""

    def make(image: str | None = IMAGE, **options: Any) -> DockerBackend:
        given = {"socket": docker.path, "sync": None, "journal": tmp_path / "journal", **options}
        return DockerBackend(image, **given)

    return make
