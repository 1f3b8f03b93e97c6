"""The jobs of a backend as Slurm's queue shows them. All boots share each query of the queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from dragonfly_executor.backends.base import Signal
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.slurm.commands import COMMAND_TIMEOUT, SlurmCommands
from dragonfly_executor.backends.slurm.job import Job

LOOK_EVERY = 1.0
"""Minimum seconds between two queries. Slurm sends no message when a job starts, so polling is the only way."""
LOOK_SHARE = 20
"""Minimum pause between two looks, as a multiple of the last look's duration: a slow controller is asked less often."""


class QueueView:
    """The jobs that are followed, by id. Any thread.

    Args:
        commands: read the queue.
    """

    def __init__(self, commands: SlurmCommands) -> None:
        self._commands = commands
        self._lock = threading.Lock()
        self._followed: dict[str, Callable[[Job | None], object]] = {}
        self._jobs: dict[str, Job] = {}
        self._asked: set[str] = set()
        """The jobs that the last look asked for: it says nothing about jobs that were submitted during it."""
        self._looks = 0
        """Number of looks that have succeeded."""
        self._next_look = 0.0
        self._is_looking = False
        self._waiting: set[threading.Event] = set()
        """Events of the threads that wait for the end of another thread's look."""

    def follow(self, job_id: str, on_look: Callable[[Job | None], object]) -> None:
        """Include this job in the looks, until `leave`.

        Args:
            job_id: Slurm's number of the job.
            on_look: gets the job at each look, or None if Slurm knows no such job. The thread that looks runs it.
        """
        with self._lock:
            self._followed[job_id] = on_look
            self._next_look = 0.0

    def leave(self, job_id: str) -> None:
        """Leave this job out of the looks."""
        with self._lock:
            self._followed.pop(job_id, None)
            self._jobs.pop(job_id, None)

    def look(self, job_id: str, deadline: Deadline, stopped: Signal | None = None) -> Job | None:
        """Return the job as the next look shows it; None if Slurm knows no such job. Waits until a look is due.

        Args:
            job_id: Slurm's number of the job, which is followed.
            deadline: for the wait. A look that this thread makes may take longer: a slow controller needs the time.
            stopped: ends such a look when it is set.

        Raises:
            SlurmError: the queue cannot be read.
            TimeoutError: the deadline has passed, or the boot was cancelled.
        """
        seen = self._looks
        while not deadline.is_over:
            ended = threading.Event()
            with self._lock:
                if self._looks != seen and job_id in self._asked:
                    return self._jobs.get(job_id)
                pause = 0.0 if self._is_looking else self._next_look - time.monotonic()
                is_turn = not self._is_looking and pause <= 0
                if is_turn:
                    self._is_looking = True
                elif self._is_looking:
                    self._waiting.add(ended)
            if is_turn:
                return self._look(Deadline(COMMAND_TIMEOUT, stopped)).get(job_id)
            if pause > 0:
                deadline.pause(pause)
                continue
            with deadline.ending(ended.set):
                ended.wait(deadline.left(COMMAND_TIMEOUT))
            with self._lock:
                self._waiting.discard(ended)
        raise TimeoutError("there was no time left to query the queue")

    def _look(self, deadline: Deadline) -> dict[str, Job]:
        """Read the queue for all threads that wait."""
        began = time.monotonic()
        with self._lock:
            followed = dict(self._followed)
        jobs: dict[str, Job] | None = None
        try:
            jobs = self._commands.jobs(sorted(followed), deadline) if followed else {}
            for job_id, on_look in followed.items():
                on_look(jobs.get(job_id))
            return jobs
        finally:
            with self._lock:
                ended = time.monotonic()
                self._next_look = ended + max(LOOK_EVERY, LOOK_SHARE * (ended - began))
                self._is_looking = False
                if jobs is not None:
                    self._jobs, self._asked = jobs, set(followed)
                    self._looks += 1
                # If the look failed, one of these threads makes the next.
                for waiting in self._waiting:
                    waiting.set()
