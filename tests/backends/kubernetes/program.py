"""A program that a test kills: its pool has one call on a runner in a Pod.

python -m tests.backends.kubernetes.program MAILBOX GATE [SETTING=VALUE ...]
"""

from __future__ import annotations

import signal
import sys

from dragonfly_executor import DragonflyExecutor, KubernetesBackend
from tests.support.kubernetes_simulator.images import IMAGE
from tests.support.payloads import hold


def main(mailbox: str, gate: str, *settings: str) -> None:
    """Does not return by itself."""
    given = dict(setting.split("=", 1) for setting in settings)
    selector = {"there-is": given["selector"]} if "selector" in given else None
    backend = KubernetesBackend(
        given.get("image", IMAGE), host="127.0.0.1", sync=None, failsafe=1.0, node_selector=selector
    )
    executor = DragonflyExecutor(backend=backend, max=1, lease=2.0, heartbeat=0.3)
    executor.submit(hold, mailbox, gate)
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
