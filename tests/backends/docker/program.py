"""A program that a test kills: its pool has one call in a container.

python -m tests.backends.docker.program SOCKET JOURNAL MAILBOX GATE
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from dragonfly_executor import DragonflyExecutor
from dragonfly_executor.backends.docker.backend import DockerBackend
from tests.support.fake_docker import IMAGE
from tests.support.payloads import hold


def main(socket: str, journal: str, mailbox: str, gate: str) -> None:
    """Does not return by itself."""
    env = {"PYTHONPATH": str(Path.cwd())}
    backend = DockerBackend(IMAGE, socket=socket, sync=None, env=env, journal=journal)
    with DragonflyExecutor(backend=backend, max=1, max_concurrency=1) as executor:
        executor.submit(hold, mailbox, gate).result()
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
