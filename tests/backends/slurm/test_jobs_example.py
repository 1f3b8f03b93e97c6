"""The example for Slurm, in two jobs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.slurm_cluster import SlurmCluster

EXAMPLE = Path(__file__).parents[3] / "examples" / "slurm_jobs.py"

pytestmark = pytest.mark.engine


def test_a_magnet_is_simulated_in_two_jobs(cluster: SlurmCluster, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE), "host=127.0.0.1", "time=5"],
        cwd=tmp_path,
        env={**cluster.env, "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    *rows, jobs = done.stdout.splitlines()
    means = {temperature: float(mean) for temperature, mean, *_ in map(str.split, rows)}
    assert len(means) == 16
    assert means["1.6"] > 0.95
    assert means["3.1"] < 0.3
    assert jobs.startswith("jobs: ")
    assert "no job" not in jobs
    assert cluster.jobs() == []
