"""The end of a job, as Slurm's accounting knows it."""

from __future__ import annotations

from typing import NamedTuple

from dragonfly_executor.backends.slurm.job import ENDS, RUNNING, WAITING

ACCOUNT_FIELDS = "JobID,State,ExitCode,MaxRSS"
"""The fields of one line of ``sacct --parsable2``."""


class JobEnd(NamedTuple):
    """The end of a job.

    Attributes:
        job_id: Slurm's number of the job.
        state: the state's long name, such as "OUT_OF_MEMORY".
        user: number of the user who cancelled it; "" if Slurm does not say.
        exit_code: the batch script's.
        signal: the signal that ended the script; 0 if none.
        most_memory: the most memory that it used, as Slurm writes it ("8123K"); "" if it was not measured.
    """

    job_id: str
    state: str
    user: str
    exit_code: int
    signal: int
    most_memory: str

    def describe(self) -> str:
        """Return the end in words."""
        details = []
        if self.user:
            details.append(f"by user {self.user}")
        if self.exit_code:
            details.append(f"exit code {self.exit_code}")
        if self.signal:
            details.append(f"signal {self.signal}")
        if self.state == "OUT_OF_MEMORY" and self.most_memory:
            details.append(f"{self.most_memory} at most, as far as it was measured")
        what = ENDS.get(self.state, f"ended as {self.state}")
        return f"job {self.job_id} {what}" + (f" ({', '.join(details)})" if details else "")


def parse_end(text: str, job_id: str) -> JobEnd | None:
    """Return the end of a job from the output of ``sacct --noheader --parsable2``; None if it has not ended.

    Args:
        text: lines with `ACCOUNT_FIELDS`: one for the job, and one for each of its steps. Other lines are skipped.
        job_id: Slurm's number of the job.
    """
    lines = [line.strip().split("|") for line in text.splitlines()]
    fields = {line[0]: line for line in lines if len(line) == ACCOUNT_FIELDS.count(",") + 1}
    job = fields.get(job_id)
    if job is None:
        return None
    state, _, more = job[1].partition(" ")
    if not state or state in WAITING or state in RUNNING:
        return None
    code, _, signal = job[2].partition(":")
    batch = fields.get(f"{job_id}.batch")
    memory = "" if batch is None else batch[3]
    return JobEnd(job_id, state, more.removeprefix("by ").strip(), _number(code), _number(signal), memory)


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 10 else 0
