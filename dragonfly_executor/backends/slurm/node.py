"""A runner's job in a Slurm cluster."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dragonfly_executor.backends.base import BootRequest, CancelToken, Node
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.slurm.accounting import Accounting
from dragonfly_executor.backends.slurm.commands import SlurmCommands, SlurmError
from dragonfly_executor.backends.slurm.job import COMPLETED, NEVER_STARTS, Job
from dragonfly_executor.backends.slurm.queue_view import QueueView
from dragonfly_executor.errors import BootError, BootTimeoutError

logger = logging.getLogger("dragonfly_executor")

STOP_TIMEOUT = 30.0
"""Seconds that the end of a job may take. Slurm's own programs end a job within KillWait, which is 30 s by default."""
QUEUED_STOP_TIMEOUT = 1.5
"""Seconds that it may take to cancel a job that waits in the queue. A pool that ends waits for this."""
FIRST_LOOK = 5.0
"""Seconds until the backend asks for the time limit of a job that runs. It is not known before."""
LATER_LOOKS = 300.0
RENEW_TIMEOUT = 60.0
END_TOLERANCE = 5.0
"""Seconds by which a time limit must change to be told. Slurm counts in whole seconds, and answers late."""
KILL_MARGIN = 5.0
"""Seconds before the time limit by which calls have ended: Slurm enforces its limits only now and then."""
LOSS_WAIT = 4.0
"""Seconds for Slurm to see the end of a job whose runner was lost. Its calls wait for that."""
LOSS_PAUSE = 0.2
"""Seconds between two queries for such a job. Slurm sends no message when a job ends."""
ACCOUNTING_TIMEOUT = 3.0
TAIL = 4096
"""Bytes at the end of a job's log that are read for an error."""


class SlurmNode(Node):
    """A job that waits for its node, has one, or had one.

    Args:
        job_id: Slurm's number of the job.
        name: the job's name, which no other job has.
        commands, queue: the cluster's.
        log: the file that the job's output goes to, which this machine may see or not.
        forget, abandon: called at the end of `stop`: if the job is gone, or if it may still wait or run. `abandon`
            returns as text how the job gets cancelled.
        shares_disk: whether the job sees the files of this machine.
        accounting: says how jobs have ended.
        request: is notified when the job starts, and reports that its runner has dialed back.
        queue_timeout: seconds that the job may wait in Slurm's queue.
        keeps_log: whether the log stays when the job is stopped.
    """

    stopper = "Slurm (at the job's time limit, for a job of higher priority, or by scancel)"
    renew_every = FIRST_LOOK
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
        accounting: Accounting,
        request: BootRequest,
        queue_timeout: float = float("inf"),
        keeps_log: bool = False,
    ) -> None:
        self.job_id = job_id
        self.name = name
        self.shares_disk = shares_disk
        self._commands = commands
        self._accounting = accounting
        self._queue = queue
        self._log = log
        self._forget = forget
        self._abandon = abandon
        self._keeps_log = keeps_log
        self._stopped = CancelToken()
        self._request = request
        self._queue_timeout, self._in_queue = queue_timeout, Deadline(queue_timeout)
        self._when_stopped: Callable[[], object] | None = None
        self._job: Job | None = None
        self._looks = 0
        self._end: float | None = None
        """Monotonic time at which the job reaches its time limit, as the pool was told."""
        self._is_forgotten = False
        self.is_queued = True
        queue.follow(job_id, self._seen)
        if request.dialed_in is not None:
            request.dialed_in.call(self._has_started)

    def _seen(self, job: Job | None) -> None:
        """Record the job as the queue shows it; None if Slurm has forgotten it."""
        self._is_forgotten = job is None
        if job is None:
            return
        self._job = job
        self._looks += 1
        self.host = job.nodes or self.host
        if self.is_queued and not job.waits:
            self._has_started()
        seconds = job.seconds_left
        if seconds is not None:
            self._tell_end(seconds)

    def _tell_end(self, seconds: float) -> None:
        """Tell the pool when the job reaches its time limit, unless the pool already has that time."""
        end = time.monotonic() + seconds
        if self._end is None or abs(end - self._end) > END_TOLERANCE:
            self._end = end
            ended_by = f"Slurm ended job {self.job_id} at its time limit: SlurmBackend(time=...) gives jobs more time"
            self._request.ending(max(0.0, seconds - KILL_MARGIN), ended_by)

    def renew(self) -> None:
        """See `Node.renew`. It asks Slurm, because a limit can change, and is not known before the job runs."""
        with suppress(SlurmError, TimeoutError):
            self._queue.look(self.job_id, Deadline(RENEW_TIMEOUT, self._stopped), self._stopped)
            self.renew_every = LATER_LOOKS

    def _has_started(self) -> None:
        self.is_queued = False
        self._request.started()

    def progress(self) -> str:
        """See `Node.progress`."""
        job = self._job
        if job is None:
            return f"job {self.job_id} was submitted"
        # Slurm gives the reason for which an array waits a moment after its submission.
        return "" if self._looks == 1 and job.waits and job.reason in ("", "None") else job.describe()

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
        if self._is_forgotten or (job is not None and job.has_ended):
            end = self._accounting.end_of(self.job_id, Deadline(ACCOUNTING_TIMEOUT, self._stopped))
            if end is not None:
                said = end.describe()
            elif self._is_forgotten or job is None:
                said = f"job {self.job_id} is gone from Slurm's queue"
            else:
                said = job.describe()
            return BootError(said, phase, output=self.output())
        if job is not None and job.waits and job.reason in NEVER_STARTS:
            return BootError(f"{job.describe()}: {NEVER_STARTS[job.reason]}", "queue", final=True)
        if self.is_queued and self._in_queue.is_over:
            said = self.progress() or f"job {self.job_id} waits"
            text = f"{said}, and did not start within {self._queue_timeout:g} s (queue_timeout)"
            return BootTimeoutError(text, "queue")
        return None

    def explain_loss(self) -> str:
        """See `Node.explain_loss`. Waits until Slurm has seen the end of the job."""
        deadline = Deadline(LOSS_WAIT, self._stopped)
        job: Job | None = None
        while not deadline.is_over:
            # A controller that is away says nothing about the job.
            with suppress(SlurmError, TimeoutError):
                job = self._commands.jobs([self.job_id], deadline).get(self.job_id)
                if job is None or (job.has_ended and not job.is_completing):
                    break
            deadline.pause(LOSS_PAUSE)
        end = self._accounting.end_of(self.job_id, Deadline(ACCOUNTING_TIMEOUT, self._stopped))
        if COMPLETED in (end and end.state, job and job.state):
            # The runner has ended by itself: `stopper` says why, if Slurm has sent it SIGTERM.
            return ""
        if end is not None:
            return end.describe()
        if job is None or job.has_ended:
            return "" if job is None else job.describe()
        return f"{job.describe()}: check that node, and the network between it and this program"

    def call_when_stopped(self, then: Callable[[], object]) -> None:
        """Call `then` at the end of `stop`, once."""
        self._when_stopped = then

    def stop(self) -> None:
        """See `Node.stop`. If the job may still wait or run in the end, a warning names it."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        try:
            # The end of a job that has not started takes no time, unless the controller is away.
            first = Deadline(QUEUED_STOP_TIMEOUT) if self.is_queued else None
            self._commands.end(self.job_id, Deadline(STOP_TIMEOUT), first)
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
