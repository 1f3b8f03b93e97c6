"""Executors whose runners see nothing of this machine's files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import DragonflyExecutor
from dragonfly_executor.sync import Sync, user_modules
from tests.processes.sync.elsewhere import ElsewhereBackend, bundle
from tests.support.helpers import ending

MakeElsewhere = Callable[..., DragonflyExecutor]


@pytest.fixture(scope="session")
def runner_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("bundle") / "bundle.zip")


@pytest.fixture
def home(tmp_path: Path, runner_bundle: Path) -> Path:
    """The home of the user on the host."""
    home = tmp_path / "elsewhere"
    home.mkdir()
    (home / "bundle.zip").symlink_to(runner_bundle)
    return home


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory; of what was imported, what lies in it travels, and not this test run."""
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.setattr(user_modules, "of_script", lambda layout: None)
    found = user_modules.imported

    def of_project(layout: user_modules.RemoteLayout) -> dict[user_modules.SyncUnit, set[str]]:
        return {unit: files for unit, files in found(layout).items() if unit.local.startswith(str(project))}

    monkeypatch.setattr(user_modules, "imported", of_project)
    return project


@pytest.fixture
def make(home: Path, project: Path) -> Iterator[MakeElsewhere]:
    """Makes executors on one host, and ends them whatever runs there."""
    with ending() as made:

        def make(
            max_concurrency: int = 2, *, files: Any = "auto", backend: ElsewhereBackend | None = None, **options: Any
        ) -> DragonflyExecutor:
            backend = backend or ElsewhereBackend(home, Sync(files, check_every=0))
            made.append(DragonflyExecutor(backend=backend, max_concurrency=max_concurrency, **{"max": 1, **options}))
            return made[-1]

        yield make
