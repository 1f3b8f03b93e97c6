"""The main job on two actors of a Ray cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.ray_cluster import RayCluster
from tests.support.transcode import transcode_on_two_runners

pytestmark = pytest.mark.engine


def test_a_video_is_transcoded_on_two_actors(cluster: RayCluster, tmp_path: Path) -> None:
    transcode_on_two_runners(tmp_path, "ray", "--cluster", cluster.address)
    assert cluster.agents() == []
