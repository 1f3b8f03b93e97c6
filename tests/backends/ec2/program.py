"""A program that a test kills: its pool has one call on a runner on an instance.

python -m tests.backends.ec2.program URL JOURNAL MAILBOX GATE
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from dragonfly_executor import DragonflyExecutor
from dragonfly_executor.backends.ec2.backend import EC2Backend
from tests.support.ec2_world import REGION
from tests.support.payloads import hold


def main(url: str, journal: str, mailbox: str, gate: str) -> None:
    """Does not return by itself."""
    backend = EC2Backend(
        "ami-12c6146b",
        instance_types="c7i.large",
        region=REGION,
        endpoint_url=url,
        host="127.0.0.1",
        python=sys.executable,
        sync=None,
        env={"PYTHONPATH": str(Path.cwd())},
        journal=journal,
    )
    with DragonflyExecutor(backend=backend, max=1, max_concurrency=1) as executor:
        executor.submit(hold, mailbox, gate).result()
    print("over", flush=True)
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
