"""A Ray cluster whose autoscaler starts nodes for actors that wait. The nodes are processes of this machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from dragonfly_executor import DragonflyExecutor, RayBackend
from tests.support.helpers import PATIENCE, Gate, Mailbox
from tests.support.payloads import hold
from tests.support.ray_cluster import RayCluster, ray_cluster

pytestmark = pytest.mark.engine

ASK = """
import ray, sys
from dragonfly_executor.backends.ray.autoscaler import autoscaler_status
ray.init(sys.argv[1], log_to_driver=False, configure_logging=False)
print("it says:", autoscaler_status())
"""


@pytest.fixture
def scaled(ray_here: None) -> Iterator[RayCluster]:
    """A cluster of a head without CPUs. Its autoscaler may start one node."""
    with ray_cluster(cpus=0, more_nodes=1) as running:
        yield running


def test_an_actor_that_waits_gets_a_node_and_the_next_waits_at_the_autoscaler_s_maximum(
    scaled: RayCluster, mailbox: Mailbox, gate: Gate
) -> None:
    with DragonflyExecutor(backend=RayBackend(scaled.address, sync=None), max=2) as executor:
        futures = [executor.submit(hold, mailbox.path, gate.path, number) for number in range(2)]
        stats = executor.pool.stats
        text = "none of the 1 Ray nodes has CPU=1; 2 actors wait"
        scaled.wait_until(lambda: any(said.startswith(text) for said in stats().progress), "the queue")
        scaled.wait_until(lambda: stats().runners_up == 1, "the node that the autoscaler starts")
        mailbox.read()
        text = "1 of 2 Ray nodes has CPU=1, and other work uses it; 1 actor waits"
        scaled.wait_until(lambda: any(said.startswith(text) for said in stats().progress), "the second in the queue")
        gate.open(2)
        assert [future.result(2 * PATIENCE) for future in futures] == [0, 1]


def test_the_autoscaler_s_own_report_can_be_read(scaled: RayCluster) -> None:
    """It has nothing to do here. An error would be suppressed in the driver."""
    told = subprocess.run(
        [sys.executable, "-c", ASK, scaled.address], capture_output=True, text=True, timeout=2 * PATIENCE, check=True
    )
    assert told.stdout.splitlines()[-1] == "it says: "
