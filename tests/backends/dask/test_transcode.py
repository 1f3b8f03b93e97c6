"""The main job on two workers of a Dask cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.dask_cluster import DaskCluster

pytestmark = pytest.mark.engine

EXAMPLE = Path(__file__).parents[3] / "examples" / "transcode.py"


def test_a_video_is_transcoded_on_two_workers(cluster: DaskCluster, tmp_path: Path) -> None:
    """The frames are counted against the original's."""
    arguments = ["--backend", "dask", "--runners", "2", "--slots", "1", "--quiet", "--no-comparison"]
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), *arguments, "--cluster", cluster.address, "--output", str(tmp_path / "out.mp4")],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "runners     2 (" in done.stdout
    assert "132 frames, 5.28 s, as the original has" in done.stdout
    assert cluster.agents() == []
