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
    steps = ["workers", "create", "queue", "connect"]
    assert [line.split()[:2] for line in lines[1:5]] == [[step, "ok"] for step in steps]
    assert "2 of 2 Dask workers with 2 threads in all may get a runner" in " ".join(lines[1].split())
    assert "1 threads" in lines[3]
    assert cluster.agents() == []


def test_a_worker_that_never_comes_is_told(capsys: pytest.CaptureFixture[str], cluster: DaskCluster) -> None:
    settings = [f"address={cluster.address}", "resources=GPU=1", "queue_timeout=0.5"]
    assert main(["doctor", "--backend", "dask", *(word for text in settings for word in ("--set", text))]) == 1
    out = capsys.readouterr().out
    assert "none of the 2 Dask workers has GPU=1 (they declare no resources)" in out
    assert "see why the scheduler keeps" in out


@pytest.mark.usefixtures("dask_here")
def test_a_scheduler_that_is_not_there_is_told_before_a_boot(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragonfly_executor.backends.dask.scheduler.CONNECT_TIMEOUT", 0.5)
    assert main(["doctor", "--backend", "dask", "--set", "address=127.0.0.1:9"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "workers FAILED cannot connect to the Dask scheduler at tcp://127.0.0.1:9" in out
    assert "see that the scheduler runs" in out
    assert "boot - not reached" in out
