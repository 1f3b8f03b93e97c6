"""`SlurmBackend`: submits a job to a Slurm cluster for each runner, and cancels it when the pool stops the runner."""

from __future__ import annotations

import logging
import os
import shlex
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dragonfly_executor.backends.agent_command import runner_options
from dragonfly_executor.backends.background_sweep import BackgroundSweeper
from dragonfly_executor.backends.base import Backend, BootRequest, Node
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.journal import JournalEntry, open_journal
from dragonfly_executor.backends.journal_writer import JournalWriter
from dragonfly_executor.backends.label import node_name
from dragonfly_executor.backends.slurm.commands import SlurmCommands, SlurmError
from dragonfly_executor.backends.slurm.leftovers import SlurmLeftovers, comment_of
from dragonfly_executor.backends.slurm.node import SlurmNode
from dragonfly_executor.backends.slurm.options import (
    Minutes,
    Option,
    capacity_of,
    check_options,
    command_line,
    meet,
    time_limit,
)
from dragonfly_executor.backends.slurm.queue_view import QueueView
from dragonfly_executor.errors import BootError
from dragonfly_executor.protocol.parent import VARIABLE
from dragonfly_executor.sync.options import Sync
from dragonfly_executor.util import validation
from dragonfly_executor.util.validation import duration, whole

if TYPE_CHECKING:
    from typing import Unpack

    from dragonfly_executor.backends.found_node import FoundNode, SweepResult
    from dragonfly_executor.backends.tier_keywords import TierKeywords
    from dragonfly_executor.util.validation import Seconds

logger = logging.getLogger("dragonfly_executor")

INFINITY = float("inf")
NOTICE = 30
"""Seconds before a job's time limit at which Slurm sends SIGTERM to its runner. The runner gives its calls 25 s."""
SWEEP_TIMEOUT = 60.0
FIRST_SWEEP_TIMEOUT = 10.0
"""Seconds for the sweep beside the first boot."""
UNDO_TIMEOUT = 1.5
"""Seconds for cancelling the job of a submission whose answer was lost: a cancelled boot must end within 2 s."""
NUMBERS = ("cpus_per_task", "nodes", "port", "queue_timeout")
TEXTS = ("partition", "account", "qos", "time", "mem", "gres", "python", "setup", "host", "logs", "journal")
LOGS = "~/.cache/dragonfly_executor/slurm"


class SlurmBackend(Backend):
    """Boots runners as jobs of a Slurm cluster, one job per runner.

    The machine of this program must be able to submit jobs, and the cluster's nodes must reach it over the network: a
    runner dials back to it. Jobs that wait in Slurm's queue are not late: `boot_timeout` counts from when a job starts.

    Args:
        partition, account, qos: of the jobs.
        time: the time limit of a job, in minutes, in one of Slurm's forms ("2-12:00:00"), or as a `timedelta`. Default:
            the partition's own. A runner gets SIGTERM 30 s before that, takes no more calls, and gives its calls 25 s.
        cpus_per_task: CPUs of a job, and the number of calls at once on its runner; default 1.
        mem, gres: memory and other resources of a job, as for sbatch ("16G", "gpu:1").
        nodes: the number of nodes of a job. The runner is on the first.
        options: more options of sbatch, by name: ``{"constraint": "avx512", "exclusive": True}``.
        python: the interpreter on the nodes; default: the path of this interpreter, which fits clusters whose nodes
            see the same files. It must find this package.
        setup: lines of shell for the start of the job, such as ``module load python/3.12``.
        env: environment variables for the runners. They also get this program's environment, as Slurm's jobs do.
        host: the address of this machine that the nodes dial, as a name or an IP address; default: its host name.
        port: the port to listen on; default: any free port.
        queue_timeout: seconds (or a `timedelta`) that a job may wait in Slurm's queue. Default: as long as it takes.
        logs: a folder for the jobs' output, which both this machine and the nodes see. If given, the files are kept.
            Default: ``~/.cache/dragonfly_executor/slurm``, from which they are removed when the runner stops.
        sync: which files of this program are sent to the runners; see `SSHBackend`. None: no files, as the nodes see
            this machine's files under the same paths.
        requirements: third-party packages to install on each node; see `SSHBackend`.
        command_env: environment variables for Slurm's commands, such as SLURM_CONF.
        journal: the folder of the journal; default ``$XDG_STATE_HOME/dragonfly_executor/slurm``. False turns the
            journal off. Then only the comments of jobs identify the jobs of a killed parent.
        sweep: whether to cancel the jobs of pools that are gone, beside the first boot.
        labels: free labels of the runners, such as ``{"eu"}``.
        tier: `max`, `idle_shutdown_after` and `budget` of the runners of this backend; see `Backend.set_limits`.

    Raises:
        TypeError, ValueError: an argument is invalid.
        OSError: the journal's folder cannot be made.
    """

    name = "slurm"
    dials_back = True
    expected_boot_time = 20.0
    default_boot_timeout = 60.0
    phases = ("create", "queue", "connect", "handshake", "sync", "requirements")

    def __init__(
        self,
        *,
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        time: Minutes = None,
        cpus_per_task: int | None = None,
        mem: str | int | None = None,
        gres: str | None = None,
        nodes: int | None = None,
        options: Mapping[str, Option] | None = None,
        python: str | None = None,
        setup: str = "",
        env: Mapping[str, str] | None = None,
        host: str | None = None,
        port: int = 0,
        queue_timeout: Seconds | None = None,
        logs: str | os.PathLike[str] | None = None,
        sync: Sync | str | Iterable[str | os.PathLike[str]] | None = "auto",
        requirements: Iterable[str] | str | os.PathLike[str] | None = None,
        command_env: Mapping[str, str] | None = None,
        journal: str | os.PathLike[str] | bool | None = None,
        sweep: bool = True,
        labels: Iterable[str] = (),
        **tier: Unpack[TierKeywords],
    ) -> None:
        self.set_limits(**tier)
        self.labels = validation.labels(labels, "labels")
        named: dict[str, Option] = {
            "partition": partition, "account": account, "qos": qos, "time": time_limit(time), "mem": mem, "gres": gres,
            "cpus_per_task": None if cpus_per_task is None else whole(cpus_per_task, "cpus_per_task", 1),
            "nodes": None if nodes is None else whole(nodes, "nodes", 1),
        }  # fmt: skip
        self._options = check_options({**named, **(options or {})})
        self._cpus = cpus_per_task or 1
        files = Sync.of(sync, requirements)
        self._shares_disk = sync is None and requirements is None
        self.sync = None if self._shares_disk else files
        self._python, self._setup = python or sys.executable, setup
        self._env = dict(env or {})
        self._address = host or socket.gethostname(), whole(port, "port", 0)
        self._queue_timeout = INFINITY if queue_timeout is None else duration(queue_timeout, "queue_timeout")
        self._keeps_logs = logs is not None
        self._logs = Path(logs or LOGS).expanduser()
        self._commands = SlurmCommands(command_env)
        self._queue = QueueView(self._commands)
        self.journal = open_journal(journal, "slurm")
        self._leftovers = SlurmLeftovers(self._commands, self.journal, {**os.environ, **(command_env or {})})
        self._sweeps = BackgroundSweeper(self._leftovers.sweep, backend="slurm", noun="job", wanted=bool(sweep))
        command = "dragonfly destroy --backend slurm"
        self._records = JournalWriter(self.journal, self._sweeps.ask, noun="job", command=command)

    @classmethod
    def from_text(cls, **settings: str) -> SlurmBackend:
        """Make a backend from texts, as a command line gives them. A name that is no argument is an option of sbatch.

        Raises:
            TypeError, ValueError: see the class.
        """
        arguments: dict[str, Any] = {}
        options: dict[str, Option] = {}
        for name, text in settings.items():
            if name in NUMBERS:
                arguments[name] = int(text)
            elif name in TEXTS:
                arguments[name] = text
            else:
                options[name] = text
        return cls(**arguments, options=options)

    def __repr__(self) -> str:
        return f"SlurmBackend({' '.join(command_line(self._options))})"

    def listen_address(self) -> tuple[str, int]:
        """See `Backend.listen_address`."""
        return self._address

    def default_placement(self) -> str:
        """See `Backend.default_placement`. A node that becomes idle sooner goes to the next job in the queue."""
        return "pack"

    def default_slots(self) -> int:
        """See `Backend.default_slots`."""
        return self._cpus

    def boot(self, request: BootRequest) -> Node:
        """See `Backend.boot`. The job that it returns waits in Slurm's queue."""
        name = node_name(request.parent.pool)
        deadline = Deadline(request.timeout, request.given_up)
        entry = self._leftovers.entry(name, request)
        self._records.begin(entry)
        try:
            job_id = self._submit(entry, request, deadline)
        except SlurmError as error:
            self._undo(entry, error)
            raise BootError(str(error), "create", final=error.final) from error
        node = self._node(job_id, entry, request)
        labels = frozenset[str]() if request.requires is None else request.requires.labels
        node.capacity = capacity_of(self._options_for(request), labels)
        request.queued()
        self._sweeps.node_came(FIRST_SWEEP_TIMEOUT)
        node.call_when_stopped(self._sweeps.node_left)
        return node

    def list_nodes(self) -> Sequence[FoundNode]:
        """See `Backend.list_nodes`."""
        return self._leftovers.find(Deadline(SWEEP_TIMEOUT))

    def destroy_nodes(self, nodes: Iterable[FoundNode]) -> SweepResult[FoundNode]:
        """See `Backend.destroy_nodes`."""
        return self._leftovers.destroy(nodes, Deadline(SWEEP_TIMEOUT))

    def _node(self, job_id: str, entry: JournalEntry, request: BootRequest) -> SlurmNode:
        known = entry._replace(node_id=job_id)
        self._records.complete(known, f"job {job_id}")
        log = self._logs / f"{job_id}.log"
        forget, abandon = (lambda: self._records.forget(known)), (lambda: self._records.abandon(known, job_id))
        return SlurmNode(
            job_id, entry.name, self._commands, self._queue, log, forget, abandon,
            shares_disk=self._shares_disk, request=request, queue_timeout=self._queue_timeout,
            keeps_log=self._keeps_logs,
        )  # fmt: skip

    def _options_for(self, request: BootRequest) -> dict[str, Option]:
        """Return the options of a job that has what the calls which wait for it require."""
        return self._options if request.requires is None else meet(self._options, request.requires, self.labels)

    def _submit(self, entry: JournalEntry, request: BootRequest, deadline: Deadline) -> str:
        with suppress(OSError):
            # The nodes may see this folder though this machine may not write to it.
            self._logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        own: dict[str, Option] = {
            "job_name": entry.name,
            "comment": "" if entry.label is None else comment_of(entry.label),
            "output": f"{self._logs}/%j.log",
            "export": "ALL",
            "no_requeue": True,
            "signal": f"B:TERM@{NOTICE}",
        }
        # The description holds the token: it goes over the environment, which only this user sees.
        env = {**self._env, VARIABLE: request.parent.encode()}
        return self._commands.submit(command_line({**self._options_for(request), **own}), self._script(), env, deadline)

    def _script(self) -> str:
        options = runner_options()
        command = [self._python, "-P", *options, "-m", "dragonfly_executor.runner"]
        # exec: Slurm's SIGTERM goes to the batch shell, which has to be the runner.
        return f"#!/bin/sh\n{self._setup}\nexec {shlex.join(command)}\n"

    def _undo(self, entry: JournalEntry, error: SlurmError) -> None:
        """Cancel the job of a submission whose answer was lost."""
        if not error.may_have_happened:
            self._records.forget(entry)
            return
        deadline = Deadline(UNDO_TIMEOUT)
        try:
            jobs = self._commands.named(entry.name, deadline)
            self._commands.cancel([job.job_id for job in jobs], deadline)
        except SlurmError as why:
            then = self._records.abandon(entry, entry.name)
            logger.warning("the boot failed, but job %s may wait or run: %s. %s", entry.name, why, then)
            return
        if jobs:
            self._records.forget(entry)
        else:
            # The submission may still be under way.
            self._records.abandon(entry, entry.name)
