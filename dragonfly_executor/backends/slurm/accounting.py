"""Slurm's accounting database, which many clusters do not have."""

from __future__ import annotations

from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.slurm.commands import SlurmCommands, SlurmError
from dragonfly_executor.backends.slurm.job_end import JobEnd

NONE_HERE = ("accounting storage is disabled", "no program sacct")
"""Parts of error texts after which ``sacct`` is not asked again."""


class Accounting:
    """The ends of jobs, as Slurm's accounting knows them. Any thread.

    Args:
        commands: the cluster's.
    """

    def __init__(self, commands: SlurmCommands) -> None:
        self._commands = commands
        self._is_off = False

    def end_of(self, job_id: str, deadline: Deadline) -> JobEnd | None:
        """Return how a job has ended; None if it has not ended, or there is no accounting."""
        if self._is_off:
            return None
        try:
            return self._commands.end_of(job_id, deadline)
        except SlurmError as error:
            said = str(error).lower()
            self._is_off = any(part in said for part in NONE_HERE)
            return None
