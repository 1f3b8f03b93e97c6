"""The main job on two Pods of a simulated cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.kubernetes_simulator.simulator import Cluster

pytestmark = pytest.mark.engine

EXAMPLE = Path(__file__).parents[3] / "examples" / "transcode.py"


@pytest.mark.timeout(120)
def test_a_video_is_transcoded_on_two_pods(cluster: Cluster, tmp_path: Path) -> None:
    """The frames are counted against the original's."""
    settings = ["--pod", "image=registry.example/app:1", "host=127.0.0.1", "cpu=1"]
    arguments = ["--backend", "kubernetes", "--runners", "2", "--slots", "1", "--quiet", "--no-comparison"]
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), *arguments, *settings, "--output", str(tmp_path / "out.mp4")],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "runners     2 (" in done.stdout
    assert "132 frames, 5.28 s, as the original has" in done.stdout
    assert cluster.pods() == []
