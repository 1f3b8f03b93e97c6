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
    assert [line.split()[:2] for line in lines[1:4]] == [["create", "ok"], ["queue", "ok"], ["connect", "ok"]]
    assert cluster.agents() == []


def test_resources_that_never_come_are_told(capsys: pytest.CaptureFixture[str], cluster: RayCluster) -> None:
    settings = [f"address={cluster.address}", "resources=unobtainium=1", "queue_timeout=0.5"]
    assert main(["doctor", "--backend", "ray", *(word for text in settings for word in ("--set", text))]) == 1
    out = capsys.readouterr().out
    assert "did not start within 0.5 s (queue_timeout): see `ray status`" in out
    assert "see why the scheduler keeps" in out
