"""A program that a test kills: its pool has one call on a runner in a job, or as many as `runners=` says.

python -m tests.backends.slurm.program SLURM_CONF LOGS MAILBOX GATE [runners=COUNT] [SBATCH_OPTION=VALUE ...]
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from dragonfly_executor import DragonflyExecutor
from dragonfly_executor.backends.slurm.backend import SlurmBackend
from tests.support.payloads import hold


def main(conf: str, logs: str, mailbox: str, gate: str, *options: str) -> None:
    """Does not return by itself."""
    given = dict(option.split("=", 1) for option in options)
    count = int(given.pop("runners", "1"))
    backend = SlurmBackend(
        host="127.0.0.1",
        sync=None,
        logs=logs,
        journal=f"{logs}-journal",
        command_env={"SLURM_CONF": conf},
        env={"PYTHONPATH": str(Path.cwd())},
        options=given,
    )
    executor = DragonflyExecutor(backend=backend, max=count, min=count)
    for _ in range(count):
        executor.submit(hold, mailbox, gate)
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
