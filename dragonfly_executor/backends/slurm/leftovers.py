"""The jobs of pools in Slurm's queue, found by their names and their comments."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.found_node import FoundNode, SweepResult
from dragonfly_executor.backends.journal import Journal, JournalEntry
from dragonfly_executor.backends.label import OwnerLabel
from dragonfly_executor.backends.leftovers import Leftovers, ListedNode
from dragonfly_executor.backends.owner import Owner
from dragonfly_executor.backends.slurm.commands import SlurmCommands
from dragonfly_executor.backends.slurm.job import Job, element_name

PREFIX = "dragonfly-"
"""The beginning of the names of all jobs."""
MARK = "dragonfly_executor "
"""The beginning of the comments of all jobs. The label follows, as JSON."""
DAY = 24 * 3600.0
"""Seconds for which the journal keeps a job that Slurm does not know, and whose number was never learned."""
NEVER = 10 * 365 * DAY
"""Seconds until a job's label expires. Jobs may wait for weeks, and end with their time limit or their runner."""


class SlurmLeftovers:
    """The jobs of one user in one cluster.

    Args:
        commands: the cluster's.
        journal: the journal, or None.
        environment: variables of Slurm's commands. They tell the clusters of this machine apart.
    """

    def __init__(self, commands: SlurmCommands, journal: Journal | None, environment: Mapping[str, str]) -> None:
        self._commands = commands
        words = (os.uname().nodename, *(environment.get(name, "") for name in ("SLURM_CONF", "SLURM_CLUSTERS")))
        self._place = " ".join(words).rstrip()
        self._found = Leftovers(journal, self._place)

    def entries(self, name: str, pool: str, count: int) -> list[JournalEntry]:
        """Return the journal entries for a job that is about to be submitted, or for the elements of an array.

        Args:
            name: the job's name.
            pool: the pool's name.
            count: number of elements; 1 for a job that is no array.
        """
        now = time.time()
        # One comment for all elements, so one label.
        label = OwnerLabel(os.urandom(16).hex(), pool, Owner.me(), int(now + NEVER), int(NEVER))
        names = [name] if count == 1 else [element_name(name, index) for index in range(count)]
        return [JournalEntry(each, self._place, label, now, now + DAY) for each in names]

    def find(self, deadline: Deadline) -> list[FoundNode]:
        """Return all jobs of pools, of any process.

        Raises:
            SlurmError: the queue cannot be read.
        """
        listed = [_listed(job) for job in self._commands.own_jobs(deadline) if is_job_of_pool(job)]

        def look_up(job_id: str) -> ListedNode | None:
            """Return a job that may have left the queue."""
            job = self._commands.jobs([job_id], deadline).get(job_id)
            return None if job is None or not is_job_of_pool(job) else _listed(job)

        return self._found.find(listed, look_up)

    def destroy(self, nodes: Iterable[FoundNode], deadline: Deadline) -> SweepResult[FoundNode]:
        """Cancel these jobs, and wait for their ends."""

        def cancel(job_id: str) -> str:
            """Cancel a job."""
            self._commands.end(job_id, deadline)
            return ""

        return self._found.destroy(nodes, cancel)

    def sweep(self, deadline: Deadline) -> SweepResult[FoundNode]:
        """Cancel the jobs of pools that are gone.

        Raises:
            SlurmError: the queue cannot be read.
        """
        return self.destroy([node for node in self.find(deadline) if node.is_orphan], deadline)


def comment_of(label: OwnerLabel) -> str:
    """Return the comment of a job. It holds no ``|``, which separates the fields of ``squeue``."""
    return MARK + json.dumps(label.encode(), separators=(",", ":")).replace("|", "\\u007c")


def label_of(comment: str) -> OwnerLabel | None:
    """Return the label in a job's comment; None if there is none."""
    try:
        said: Any = json.loads(comment.removeprefix(MARK)) if comment.startswith(MARK) else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not all(isinstance(value, str) for value in said.values()):
        return None
    return OwnerLabel.decode(said)


def is_job_of_pool(job: Job) -> bool:
    """Return True if a pool has submitted this job, and it waits or runs."""
    return not job.has_ended and job.name.startswith(PREFIX) and label_of(job.comment) is not None


def _listed(job: Job) -> ListedNode:
    try:
        submitted = time.mktime(time.strptime(job.submitted, "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        submitted = None
    return ListedNode(job.node_name, job.job_id, job.state, label_of(job.comment), submitted, job.nodes)
