"""A runner's job in a Slurm cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dragonfly_executor.backends.base import CancelToken, Node
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.slurm.commands import SlurmCommands, SlurmError
from dragonfly_executor.backends.slurm.job import Job
from dragonfly_executor.backends.slurm.queue_view import QueueView
from dragonfly_executor.errors import BootError

logger = logging.getLogger("dragonfly_executor")

STOP_TIMEOUT = 30.0
"""Seconds that the end of a job may take. Slurm's own programs end a job within KillWait, which is 30 s by default."""
TAIL = 4096
"""Bytes at the end of a job's log that are read for an error."""


class SlurmNode(Node):
    """A job that has a node, or had one.

    Args:
        job_id: Slurm's number of the job.
        name: the job's name, which no other job has.
        commands, queue: the cluster's.
        log: the file that the job's output goes to, which this machine may see or not.
        forget, abandon: called at the end of `stop`: if the job is gone, or if it may still wait or run. `abandon`
            returns as text how the job gets cancelled.
        shares_disk: whether the job sees the files of this machine.
        keeps_log: whether the log stays when the job is stopped.
    """

    stopper = "Slurm (at the job's time limit, for a job of higher priority, or by scancel)"
    stop_advice = "SlurmBackend(time=...) gives jobs more time"

    def __init__(
        self,
        job_id: str,
        name: str,
        commands: SlurmCommands,
        queue: QueueView,
        log: Path,
        forget: Callable[[], object],
        abandon: Callable[[], str],
        *,
        shares_disk: bool,
        keeps_log: bool = False,
    ) -> None:
        self.job_id = job_id
        self.name = name
        self.shares_disk = shares_disk
        self._commands = commands
        self._queue = queue
        self._log = log
        self._forget = forget
        self._abandon = abandon
        self._keeps_log = keeps_log
        self._stopped = CancelToken()
        self._when_stopped: Callable[[], object] | None = None
        self._job: Job | None = None
        queue.follow(job_id)

    def look(self, deadline: Deadline) -> Job | None:
        """Return the job as the next look at the queue shows it; None if Slurm has forgotten it.

        Raises:
            SlurmError, TimeoutError: see `QueueView.look`.
        """
        job = self._queue.look(self.job_id, deadline)
        if job is not None:
            self._job = job
            self.host = job.nodes or self.host
        return job

    def ended(self, wait: float) -> BootError | None:
        """See `Node.ended`."""
        deadline = Deadline(wait, self._stopped)
        while not deadline.is_over:
            try:
                job = self.look(deadline)
            except (SlurmError, TimeoutError):
                # A controller that is away says nothing about the job.
                continue
            if job is None or job.has_ended:
                return self.error_of_end(job, "connect")
        return None

    def error_of_end(self, job: Job | None, phase: str) -> BootError:
        """Return the error of a boot whose job has ended."""
        said = f"job {self.job_id} is gone from Slurm's queue" if job is None else job.describe()
        return BootError(said, phase, output=self.output())

    def call_when_stopped(self, then: Callable[[], object]) -> None:
        """Call `then` at the end of `stop`, once."""
        self._when_stopped = then

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """See `Node.stop`.

        Args:
            timeout: seconds that the end of the job may take. After that a warning names the job.
        """
        if self._stopped.is_set():
            return
        self._stopped.set()
        deadline = Deadline(timeout)
        try:
            self._commands.end(self.job_id, deadline)
        except SlurmError as error:
            then = self._abandon()
            logger.warning("job %s (%s) may still wait or run: %s. %s", self.job_id, self.name, error, then)
        else:
            self._forget()
        finally:
            self._queue.leave(self.job_id)
            if not self._keeps_log:
                with suppress(OSError):
                    self._log.unlink(missing_ok=True)
            if self._when_stopped is not None:
                self._when_stopped()

    def output(self) -> str:
        """See `Node.output`."""
        try:
            with self._log.open("rb") as log:
                log.seek(max(0, log.seek(0, 2) - TAIL))
                return log.read().decode(errors="replace").strip()
        except OSError:
            return ""
