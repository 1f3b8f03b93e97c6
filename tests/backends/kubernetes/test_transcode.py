"""The main job on two Pods of a simulated cluster."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.transcode import transcode_on_two_runners

if TYPE_CHECKING:
    from tests.support.kubernetes_simulator.simulator import Cluster

pytestmark = pytest.mark.engine


@pytest.mark.timeout(120)
def test_a_video_is_transcoded_on_two_pods(cluster: Cluster, tmp_path: Path) -> None:
    """The frames are counted against the original's."""
    settings = ["--pod", "image=registry.example/app:1", "host=127.0.0.1", "cpu=1"]
    transcode_on_two_runners(tmp_path, "kubernetes", *settings, env={**os.environ, "HOME": str(tmp_path)})
    assert cluster.pods() == []
