"""Slurm's commands, such as ``sbatch``, ``squeue`` and ``scancel``, run as programs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence

from dragonfly_executor.backends.child_processes import ProgramResult, answer_of
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.slurm.job import FORMAT, Job, parse
from dragonfly_executor.backends.slurm.job_end import ACCOUNT_FIELDS, JobEnd, parse_end
from dragonfly_executor.errors import DragonflyError

COMMAND_TIMEOUT = 60.0
"""Seconds that one command may take. A controller under load answers slowly, and its commands try again themselves."""
STOP_PAUSE = 0.05
"""Seconds between two queries for a cancelled job."""
TEMPORARY = (
    "unable to contact slurm controller", "socket timed out", "temporarily unable", "connection refused",
    "zero bytes were transmitted", "connection timed out", "communication connection failure",
    "slurm backup controller", "resource temporarily", "qosmaxsubmitjob", "assocmaxsubmitjob",
)  # fmt: skip
"""Parts of error texts after which another attempt may succeed: the controller is away, or a limit is reached."""

SUBMIT_LIMITS = ("maxsubmitjob", "job submit limit", "maxjobcount")
"""Parts of error texts for a user who has reached the limit on jobs."""
_ARRAY_SIZE = re.compile(r"^MaxArraySize\s*=\s*(\d+)", re.MULTILINE)


class SlurmError(DragonflyError):
    """A command of Slurm failed.

    Attributes:
        final: True if the same command will fail again.
        may_have_happened: True if Slurm may have done what it was asked for: its answer did not come.
    """

    def __init__(self, message: str, *, final: bool = False, may_have_happened: bool = False) -> None:
        super().__init__(message)
        self.final = final
        self.may_have_happened = may_have_happened


class ArraysRefusedError(DragonflyError):
    """Slurm refused an array of jobs, and may take single jobs."""


def is_about_arrays(error: SlurmError) -> bool:
    """Return True if an array was refused because it is one, or because of its size."""
    return not error.may_have_happened and " array" in str(error).lower()


def is_over_limit(error: SlurmError) -> bool:
    """Return True if an array was refused because it exceeds the user's limit on jobs."""
    return not error.may_have_happened and any(part in str(error).lower() for part in SUBMIT_LIMITS)


class SlurmCommands:
    """The commands of one cluster. Any thread.

    Args:
        env: environment variables for the commands, such as SLURM_CONF, in addition to this process's own.
    """

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self._env = dict(env or {})

    def submit(self, options: Sequence[str], script: str, env: Mapping[str, str], deadline: Deadline) -> str:
        """Submit a batch script, and return the id of the job, or of the array.

        Args:
            options: the options of ``sbatch``.
            script: the batch script. It goes over stdin, and into no file of this machine.
            env: environment variables for ``sbatch``, which passes them on to the job.
            deadline: of the boot.

        Raises:
            SlurmError: there is no job, or its id is unknown.
        """
        answer = self._run(["sbatch", "--parsable", *options], deadline, script, env)
        job_id = answer.output.strip().partition(";")[0]
        if not job_id.isdigit():
            raise SlurmError(f"sbatch printed no job id, but {answer.output[:200]!r}", may_have_happened=True)
        return job_id

    def jobs(self, job_ids: Sequence[str], deadline: Deadline) -> dict[str, Job]:
        """Return the jobs with these ids, by id. Slurm forgets a job some minutes after its end.

        Elements of an array that were cancelled before they started are forgotten at once.

        Raises:
            SlurmError: the queue cannot be read.
        """
        # The number of an array stands for all its elements.
        asked = job_ids if len(job_ids) == 1 else {job_id.partition("_")[0] for job_id in job_ids}
        try:
            return self._squeue([f"--jobs={','.join(sorted(asked))}", "--states=all"], deadline)
        except SlurmError as error:
            # A list of one id, which Slurm has forgotten.
            if "invalid job id" not in str(error).lower():
                raise
        return {}

    def named(self, name: str, deadline: Deadline) -> list[Job]:
        """Return this user's jobs of this name that wait or run.

        Raises:
            SlurmError: the queue cannot be read.
        """
        return [*self._squeue(["--me", f"--name={name}"], deadline).values()]

    def own_jobs(self, deadline: Deadline) -> list[Job]:
        """Return all of this user's jobs that wait or run.

        Raises:
            SlurmError: the queue cannot be read.
        """
        return [*self._squeue(["--me"], deadline).values()]

    def end(self, job_id: str, deadline: Deadline, first: Deadline | None = None) -> None:
        """Cancel a job, and wait until its processes are gone.

        Args:
            job_id: Slurm's number of the job.
            deadline: for all.
            first: for the first attempt, if it has less time than all.

        Raises:
            SlurmError: it may still wait or run.
        """
        while True:
            step, first = first or deadline, None
            # First, as the queue may not be readable.
            self.cancel([job_id], step)
            job = self.jobs([job_id], step).get(job_id)
            if job is None or (job.has_ended and not job.is_completing):
                return
            if deadline.is_over:
                raise SlurmError(f"it was cancelled, and is still {job.state}")
            # A killed job ends within milliseconds unless its node hangs.
            deadline.pause(STOP_PAUSE)

    def cancel(self, jobs: Iterable[str], deadline: Deadline) -> None:
        """Cancel jobs, and kill all their processes. Jobs that have ended are ignored.

        Raises:
            SlurmError: they may still run.
        """
        ids = [*jobs]
        if not ids:
            return
        kill = ["scancel", "--quiet", "--full", "--signal=KILL"]
        if single := [job_id for job_id in ids if "_" not in job_id]:
            self._run([*kill, *single], deadline, ignore=("",))
        if elements := [job_id for job_id in ids if "_" in job_id]:
            # Slurm 22.05 cancels all elements that wait if one that waits is sent SIGKILL.
            self._run([*kill, "--state=RUNNING", *elements], deadline, ignore=("",))
        # The plain scancel ends jobs that wait. Running jobs get SIGTERM from it, and SIGKILL only after KillWait.
        self._run(["scancel", "--quiet", *ids], deadline, ignore=("invalid job", "already"))

    def max_array_size(self, deadline: Deadline) -> int:
        """Return how many elements an array may have in this cluster; 0 if arrays are turned off.

        Raises:
            SlurmError: the configuration cannot be read.
        """
        matched = _ARRAY_SIZE.search(self._run(["scontrol", "show", "config"], deadline).output)
        return int(matched[1]) if matched else 0

    def end_of(self, job_id: str, deadline: Deadline) -> JobEnd | None:
        """Return how a job has ended, from Slurm's accounting; None if it has not ended, or is not known there.

        Raises:
            SlurmError: there is no accounting, or it does not answer.
        """
        command = ["sacct", "--noheader", "--parsable2", f"--format={ACCOUNT_FIELDS}", f"--jobs={job_id}"]
        return parse_end(self._run(command, deadline).output, job_id)

    def _squeue(self, options: Sequence[str], deadline: Deadline) -> dict[str, Job]:
        command = ["squeue", "--noheader", "--array", f"--format={FORMAT}", *options]
        return parse(self._run(command, deadline).output)

    def _run(
        self,
        command: list[str],
        deadline: Deadline,
        text: str = "",
        env: Mapping[str, str] | None = None,
        ignore: Sequence[str] = (),
    ) -> ProgramResult:
        # C locale and plain dates: the output is parsed.
        environment = {**os.environ, **self._env, **(env or {}), "LC_ALL": "C", "SLURM_TIME_FORMAT": "standard"}
        program = command[0]
        try:
            answer = answer_of(command, deadline, COMMAND_TIMEOUT, text.encode(), environment)
        except FileNotFoundError:
            text = f"there is no program {program} on this machine's PATH: run this program on a node that submits jobs"
            raise SlurmError(text, final=True) from None
        except TimeoutError as error:
            raise SlurmError(str(error), may_have_happened=True) from error
        except OSError as error:
            raise SlurmError(f"{program} could not be run: {error}") from error
        if answer.status == 0:
            return answer
        said = " ".join(answer.errors.split()) or f"exit status {answer.status}"
        if any(part in said.lower() for part in ignore):
            return answer
        is_temporary = any(part in said.lower() for part in TEMPORARY)
        may = "timed out" in said.lower() or answer.status < 0
        raise SlurmError(f"{program} failed: {said[:1000]}", final=not is_temporary, may_have_happened=may)
