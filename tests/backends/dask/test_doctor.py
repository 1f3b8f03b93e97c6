"""``dragonfly doctor --backend dask``."""

from __future__ import annotations

import pytest

from dragonfly_executor.cli.main import main
from tests.support.dask_cluster import DaskCluster

pytestmark = pytest.mark.engine


def test_each_step_of_a_task_is_told(capsys: pytest.CaptureFixture[str], cluster: DaskCluster) -> None:
    assert main(["doctor", "--backend", "dask", "--set", f"address={cluster.address}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "dask"
    assert [line.split()[:2] for line in lines[1:4]] == [["create", "ok"], ["queue", "ok"], ["connect", "ok"]]
    assert "1 threads" in lines[2]
    assert cluster.agents() == []


def test_a_worker_that_never_comes_is_told(capsys: pytest.CaptureFixture[str], cluster: DaskCluster) -> None:
    settings = [f"address={cluster.address}", "resources=GPU=1", "queue_timeout=0.5"]
    assert main(["doctor", "--backend", "dask", *(word for text in settings for word in ("--set", text))]) == 1
    out = capsys.readouterr().out
    assert "none of the 2 Dask workers has GPU=1 (they declare no resources)" in out
    assert "see why the scheduler keeps" in out
