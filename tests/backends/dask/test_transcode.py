"""The main job on two workers of a Dask cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.dask_cluster import DaskCluster
from tests.support.transcode import transcode_on_two_runners

pytestmark = pytest.mark.engine


def test_a_video_is_transcoded_on_two_workers(cluster: DaskCluster, tmp_path: Path) -> None:
    transcode_on_two_runners(tmp_path, "dask", "--cluster", cluster.address)
    assert cluster.agents() == []
