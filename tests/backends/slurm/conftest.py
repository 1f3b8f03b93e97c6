"""A Slurm of one machine for the tests of this folder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor.backends.slurm.backend import SlurmBackend
from tests.support.slurm_cluster import SlurmCluster, missing_programs, slurm_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[SlurmCluster]:
    """A cluster with room for four jobs of one CPU each."""
    missing = missing_programs()
    if missing:
        pytest.skip(f"Slurm is not installed here: no {', '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="slurm") as folder, slurm_cluster(Path(folder)) as running:
        yield running


@pytest.fixture(autouse=True)
def _own_journal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def make_backend(cluster: SlurmCluster, tmp_path: Path) -> Callable[..., SlurmBackend]:
    """Make a backend on the cluster. What is synced is the business of other tests."""

    def make(**arguments: Any) -> SlurmBackend:
        return SlurmBackend(**{
            "host": "127.0.0.1", "sync": None, "command_env": cluster.env, "logs": tmp_path / "logs",
            "journal": tmp_path / "journal", **arguments,
        })  # fmt: skip

    return make
