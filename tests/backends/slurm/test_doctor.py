"""``dragonfly doctor --backend slurm``."""

from __future__ import annotations

from pathlib import Path

import pytest

from dragonfly_executor.cli.main import main
from tests.support.slurm_cluster import SlurmCluster

pytestmark = pytest.mark.engine


@pytest.fixture(autouse=True)
def _cluster_of_the_environment(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, cluster.env[name])
    monkeypatch.setenv("HOME", str(tmp_path))


def test_each_step_of_a_job_is_told(capsys: pytest.CaptureFixture[str], cluster: SlurmCluster) -> None:
    settings = ["--set", "host=127.0.0.1", "--set", "partition=debug", "--set", "cpus_per_task=2"]
    assert main(["doctor", "--backend", "slurm", *settings]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "slurm"
    assert [line.split()[:2] for line in lines[1:4]] == [["create", "ok"], ["queue", "ok"], ["connect", "ok"]]
    assert cluster.jobs() == []


def test_a_job_that_is_held_is_told_with_its_reason(capsys: pytest.CaptureFixture[str], cluster: SlurmCluster) -> None:
    assert (
        main(
            [
                "doctor",
                "--backend",
                "slurm",
                "--set",
                "host=127.0.0.1",
                "--set",
                "begin=now+1hour",
                "--set",
                "queue_timeout=4",
            ]
        )
        == 1
    )
    out, told = capsys.readouterr()
    assert "runner 1 waits to start: job" in told
    assert "BeginTime" in out
    assert "see why the scheduler keeps the job waiting" in out
    assert cluster.jobs() == []
