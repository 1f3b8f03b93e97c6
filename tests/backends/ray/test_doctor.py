"""``dragonfly doctor --backend ray``."""

from __future__ import annotations

import pytest

from dragonfly_executor.cli.main import main
from tests.support.ray_cluster import RayCluster

pytestmark = pytest.mark.engine


def test_each_step_of_an_actor_is_told(capsys: pytest.CaptureFixture[str], cluster: RayCluster) -> None:
    assert main(["doctor", "--backend", "ray", "--set", f"address={cluster.address}", "--set", "num_cpus=1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ray"
    steps = ["nodes", "create", "queue", "connect"]
    assert [line.split()[:2] for line in lines[1:5]] == [[step, "ok"] for step in steps]
    assert "1 of 1 Ray nodes has CPU=1" in lines[1]
    assert cluster.agents() == []


def test_resources_that_never_come_are_told(capsys: pytest.CaptureFixture[str], cluster: RayCluster) -> None:
    settings = [f"address={cluster.address}", "resources=unobtainium=1", "queue_timeout=0.5"]
    assert main(["doctor", "--backend", "ray", *(word for text in settings for word in ("--set", text))]) == 1
    out = capsys.readouterr().out
    assert "none of the 1 Ray nodes has CPU=1, unobtainium=1" in " ".join(out.split())
    assert "did not start within 0.5 s (queue_timeout): see `ray status`" in out
    assert "see why the scheduler keeps" in out


@pytest.mark.usefixtures("ray_here")
def test_a_cluster_that_is_not_there_is_told_before_a_boot(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--backend", "ray", "--set", "address=ray://127.0.0.1:9"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "nodes FAILED cannot connect to the Ray cluster at ray://127.0.0.1:9" in out
    assert "boot - not reached" in out
