"""A program that a test kills: its pool has one call on a runner of a Ray cluster.

python -m tests.backends.ray.program ADDRESS MAILBOX GATE [RESOURCE]
"""

from __future__ import annotations

import signal
import sys

from dragonfly_executor import DragonflyExecutor, RayBackend
from tests.support.payloads import hold


def main(address: str, mailbox: str, gate: str, *resources: str) -> None:
    """Does not return by itself."""
    backend = RayBackend(address, sync=None, resources=dict.fromkeys(resources, 1))
    executor = DragonflyExecutor(backend=backend, max=1)
    executor.submit(hold, mailbox, gate)
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
