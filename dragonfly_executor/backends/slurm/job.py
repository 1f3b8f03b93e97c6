"""The states of a job, as ``squeue`` reports them, and what they mean for a boot."""

from __future__ import annotations

import re
from typing import NamedTuple

FORMAT = "%i|%T|%V|%S|%N|%L|%j|%k|%r"
"""The fields of `Job` in the format language of ``squeue``. The reason comes last, as it may hold a ``|``."""
_ID = re.compile(r"\d+(_\d+)?")
WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"})
"""States of a job that has no node, or whose node Slurm still starts."""
RUNNING = frozenset({"RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"})
COMPLETED = "COMPLETED"
"""The state of a job whose script has ended with exit code 0."""
MAX_PARTS = 3
"""Hours, minutes and seconds."""
NEVER_STARTS = {
    "BadConstraints": "no node has what the job asks for",
    "InvalidAccount": "Slurm does not know the account",
    "InvalidQOS": "Slurm does not know the QOS",
    "PartitionNodeLimit": "the partition has fewer nodes than the job asks for",
    "PartitionTimeLimit": "the job asks for more time than the partition gives",
    "DependencyNeverSatisfied": "a job that it depends on has failed",
    "JobHeldAdmin": "an administrator holds the job",
    "JobHeldUser": "a user holds the job",
}
"""Reasons for which a job waits until a person changes something."""
ENDS = {
    "TIMEOUT": "reached its time limit: give the jobs more with SlurmBackend(time=...)",
    "OUT_OF_MEMORY": "used more memory than it asked for: ask for more with SlurmBackend(mem=...)",
    "PREEMPTED": "was preempted by a job of higher priority",
    "NODE_FAIL": "lost its node",
    "BOOT_FAIL": "got a node that did not start",
    "CANCELLED": "was cancelled",
    "DEADLINE": "reached its deadline before it started",
    "REVOKED": "was started by another cluster of the federation",
}
"""States of a job that has ended, in words."""


class Job(NamedTuple):
    """A job, as the controller reports it.

    Attributes:
        job_id: Slurm's number of the job. An element of an array has the number of the array and its index: "17_3".
        state: the state's long name, such as "PENDING".
        submitted: when it was submitted, in the controller's local time.
        starts: when it started, or when Slurm expects to start it; "N/A" if Slurm does not say.
        nodes: the nodes that it runs on; "" before.
        time_left: what is left of its time limit, as ``[days-]hours:minutes:seconds``, or a word.
        name, comment: the job's. All elements of an array have the same.
        reason: why it waits, or why it has ended.
    """

    job_id: str
    state: str
    submitted: str
    starts: str
    nodes: str
    time_left: str
    name: str
    comment: str
    reason: str

    @property
    def node_name(self) -> str:
        """Return the name of the runner's node, which no other job has: the elements of an array share their name."""
        index = self.job_id.partition("_")[2]
        return element_name(self.name, int(index)) if index else self.name

    @property
    def waits(self) -> bool:
        """Return True if the job has not begun to run."""
        return self.state in WAITING

    @property
    def has_ended(self) -> bool:
        """Return True if the job does not run any more, apart from Slurm's own work after a job."""
        return not self.waits and self.state not in RUNNING

    @property
    def is_completing(self) -> bool:
        """Return True if the job has ended, and Slurm has yet to see the end of its processes."""
        return self.state == "COMPLETING"

    @property
    def seconds_left(self) -> float | None:
        """Return what is left of the time limit of a job that runs; None if it has no limit, or Slurm does not say."""
        if self.state not in RUNNING:
            return None
        days, _, clock = self.time_left.rpartition("-")
        parts = clock.split(":")
        if not all(part.isdecimal() for part in [*parts, *([days] if days else [])]) or len(parts) > MAX_PARTS:
            return None
        seconds = 0
        for part in parts:
            seconds = 60 * seconds + int(part)
        return 24 * 3600.0 * int(days or 0) + seconds

    def describe(self) -> str:
        """Return the state in words, for people who wait for the job."""
        reason = f" ({self.reason})" if self.reason not in ("", "None") else ""
        if self.waits:
            when = f", expected to start at {self.starts}" if self.starts not in ("", "N/A") else ""
            return f"job {self.job_id} is {self.state}{reason}{when}"
        if self.has_ended:
            return f"job {self.job_id} {ENDS.get(self.state, f'ended as {self.state}')}{reason}"
        return f"job {self.job_id} is {self.state} on {self.nodes}"


def element_name(name: str, index: int) -> str:
    """Return the name of a runner's node that is an element of the array with this name."""
    return f"{name}-{index}"


def parse(text: str) -> dict[str, Job]:
    """Return the jobs by id from the output of ``squeue --noheader --array --format FORMAT``. Skip other lines."""
    jobs = {}
    for line in text.splitlines():
        fields = line.strip().split("|", len(Job._fields) - 1)
        if len(fields) == len(Job._fields) and _ID.fullmatch(fields[0]):
            jobs[fields[0]] = Job(*fields)
    return jobs
