"""The main job on two jobs of a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.slurm_cluster import SlurmCluster
from tests.support.transcode import transcode_on_two_runners

pytestmark = pytest.mark.engine


def test_a_video_is_transcoded_on_two_jobs(cluster: SlurmCluster, tmp_path: Path) -> None:
    env = {**cluster.env, "HOME": str(tmp_path)}
    transcode_on_two_runners(tmp_path, "slurm", "--sbatch", "host=127.0.0.1", env=env)
    assert cluster.jobs() == []
