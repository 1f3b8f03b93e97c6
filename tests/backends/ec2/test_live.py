"""A pool on AWS itself. It launches an instance, which costs.

EC2_LIVE=1 EC2_LIVE_IMAGE=ami-... EC2_LIVE_TYPE=t3.small EC2_LIVE_HOST=... pytest -m engine tests/backends/ec2

The image needs Python and this package, unless EC2_LIVE_SETUP installs them. EC2_LIVE_SUBNET and EC2_LIVE_GROUP name
the network. The region and the credentials are those of AWS's own configuration.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dragonfly_executor import DragonflyExecutor
from dragonfly_executor.backends.ec2.backend import EC2Backend
from dragonfly_executor.backends.owner import Liveness

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not os.environ.get("EC2_LIVE"), reason="launches an instance, which costs: set EC2_LIVE=1"),
    pytest.mark.timeout(900),
]


def test_a_pool_on_aws(tmp_path: Path) -> None:
    backend = EC2Backend(
        os.environ["EC2_LIVE_IMAGE"],
        instance_types=os.environ["EC2_LIVE_TYPE"],
        subnets=os.environ.get("EC2_LIVE_SUBNET", ""),
        security_groups=os.environ.get("EC2_LIVE_GROUP", ""),
        host=os.environ["EC2_LIVE_HOST"],
        setup=os.environ.get("EC2_LIVE_SETUP", ""),
        max_lifetime=1200,
        boot_timeout=600,
        journal=tmp_path / "journal",
    )
    with DragonflyExecutor(backend=backend, max=1, max_concurrency=1) as executor:
        assert executor.submit(pow, 2, 10).result() == 1024
        mine = [found for found in backend.list_nodes() if found.pool == executor.pool.name]
        assert [found.liveness for found in mine] == [Liveness.ALIVE]
    assert [found for found in backend.list_nodes() if found.name == mine[0].name] == []
    assert backend.journal is not None
    assert backend.journal.entries() == []
