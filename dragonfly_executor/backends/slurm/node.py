"""A runner's job in a Slurm cluster."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from dragonfly_executor.backends.base import BootRequest, CancelToken, Node
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.slurm.commands import SlurmCommands, SlurmError
from dragonfly_executor.backends.slurm.job import NEVER_STARTS, Job
from dragonfly_executor.backends.slurm.queue_view import QueueView
from dragonfly_executor.errors import BootError, BootTimeoutError

logger = logging.getLogger("dragonfly_executor")

STOP_TIMEOUT = 30.0
"""Seconds that the end of a job may take. Slurm's own programs end a job within KillWait, which is 30 s by default."""
QUEUED_STOP_TIMEOUT = 1.5
"""Seconds that it may take to cancel a job that waits in the queue. A pool that ends waits for this."""
STOP_PAUSE = 0.05
"""Seconds between two looks at a job that was cancelled."""
TAIL = 4096
"""Bytes at the end of a job's log that are read for an error."""


class SlurmNode(Node):
    """A job that waits for its node, has one, or had one.

    Args:
        job_id: Slurm's number of the job.
        name: the job's name, which no other job has.
        commands, queue: the cluster's.
        log: the file that the job's output goes to, which this machine may see or not.
        shares_disk: whether the job sees the files of this machine.
        request: hears when the job starts, and says when its runner has dialed back.
        queue_timeout: seconds that the job may wait in Slurm's queue.
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
        *,
        shares_disk: bool,
        request: BootRequest,
        queue_timeout: float = float("inf"),
        keeps_log: bool = False,
    ) -> None:
        self.job_id = job_id
        self.name = name
        self.shares_disk = shares_disk
        self._commands = commands
        self._queue = queue
        self._log = log
        self._keeps_log = keeps_log
        self._stopped = CancelToken()
        self._request = request
        self._queue_timeout, self._in_queue = queue_timeout, Deadline(queue_timeout)
        self._job: Job | None = None
        self._is_forgotten = False
        self.is_queued = True
        queue.follow(job_id, self._seen)
        if request.dialed_in is not None:
            request.dialed_in.call(self._has_started)

    def _seen(self, job: Job | None) -> None:
        """Note the job as a look at the queue has shown it; None if Slurm has forgotten it."""
        self._is_forgotten = job is None
        if job is None:
            return
        self._job = job
        self.host = job.nodes or self.host
        if self.is_queued and not job.waits:
            self._has_started()

    def _has_started(self) -> None:
        self.is_queued = False
        self._request.started()

    def progress(self) -> str:
        """See `Node.progress`."""
        return f"job {self.job_id} was submitted" if self._job is None else self._job.describe()

    def ended(self, wait: float) -> BootError | None:
        """See `Node.ended`. This also sees that the job starts."""
        deadline = Deadline(wait, self._stopped)
        while not deadline.is_over:
            # A controller that is away says nothing about the job.
            with suppress(SlurmError, TimeoutError):
                self._queue.look(self.job_id, deadline, self._stopped)
            if (error := self._verdict()) is not None:
                return error
        return None

    def _verdict(self) -> BootError | None:
        """Return the error of a job that has ended, will never start, or has waited for too long; None for others."""
        job, phase = self._job, "queue" if self.is_queued else "connect"
        if self._is_forgotten:
            return BootError(f"job {self.job_id} is gone from Slurm's queue", phase, output=self.output())
        if job is not None and job.has_ended:
            return BootError(job.describe(), phase, output=self.output())
        if job is not None and job.waits and job.reason in NEVER_STARTS:
            return BootError(f"{job.describe()}: {NEVER_STARTS[job.reason]}", "queue", final=True)
        if self.is_queued and self._in_queue.is_over:
            text = f"{self.progress()}, and did not start within {self._queue_timeout:g} s (queue_timeout)"
            return BootTimeoutError(text, "queue")
        return None

    def stop(self) -> None:
        """See `Node.stop`. If the job may still wait or run in the end, a warning names it."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        try:
            self._end()
        except SlurmError as error:
            logger.warning("job %s (%s) may still wait or run: %s", self.job_id, self.name, error)
        finally:
            self._queue.leave(self.job_id)
            if not self._keeps_log:
                with suppress(OSError):
                    self._log.unlink(missing_ok=True)

    def _end(self) -> None:
        """Cancel the job, and wait until its processes are gone."""
        end = Deadline(STOP_TIMEOUT)
        # The end of a job that has not started takes no time, unless the controller is away.
        deadline = Deadline(QUEUED_STOP_TIMEOUT) if self.is_queued else end
        while True:
            # First, as the queue may not be readable.
            self._commands.cancel([self.job_id], deadline)
            job = self._commands.jobs([self.job_id], deadline).get(self.job_id)
            if job is None or (job.has_ended and not job.is_completing):
                return
            deadline = end
            if deadline.is_over:
                raise SlurmError(f"it was cancelled, and is still {job.state}")
            # A killed job ends within milliseconds unless its node hangs.
            deadline.pause(STOP_PAUSE)

    def output(self) -> str:
        """See `Node.output`."""
        try:
            with self._log.open("rb") as log:
                log.seek(max(0, log.seek(0, 2) - TAIL))
                return log.read().decode(errors="replace").strip()
        except OSError:
            return ""
