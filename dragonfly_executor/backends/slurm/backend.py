"""`SlurmBackend`: each runner is a job of a Slurm cluster, or an element of a job array."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dragonfly_executor.backends.agent_command import runner_options
from dragonfly_executor.backends.background_sweep import BackgroundSweeper
from dragonfly_executor.backends.base import Backend, BootRequest, Node
from dragonfly_executor.backends.boot_request import when_all_given_up
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.from_text import arguments_from_text
from dragonfly_executor.backends.journal import JournalEntry, open_journal
from dragonfly_executor.backends.journal_writer import JournalWriter
from dragonfly_executor.backends.label import node_name
from dragonfly_executor.backends.slurm.accounting import Accounting
from dragonfly_executor.backends.slurm.commands import (
    ArraysRefusedError,
    SlurmCommands,
    SlurmError,
    is_about_arrays,
    is_over_limit,
)
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
from dragonfly_executor.backends.slurm.submission import environment, own_options, script
from dragonfly_executor.errors import BootError
from dragonfly_executor.sync.options import Sync
from dragonfly_executor.util import validation
from dragonfly_executor.util.validation import duration, whole

if TYPE_CHECKING:
    from typing import Unpack

    from dragonfly_executor.backends.found_node import FoundNode, SweepResult
    from dragonfly_executor.backends.label import OwnerLabel
    from dragonfly_executor.backends.slurm.job import Job
    from dragonfly_executor.backends.tier_keywords import TierKeywords
    from dragonfly_executor.core.capacity import Capacity
    from dragonfly_executor.protocol.parent import Parent
    from dragonfly_executor.util.validation import Seconds

logger = logging.getLogger("dragonfly_executor")

INFINITY = float("inf")
MAX_ARRAY = 100
"""Number of elements of an array at most. A pool has no more boots at once (`max_concurrent_boots`)."""
SWEEP_TIMEOUT = 60.0
FIRST_SWEEP_TIMEOUT = 10.0
"""Seconds for the sweep beside the first boot."""
UNDO_TIMEOUT = 1.5
"""Seconds for cancelling the job of a submission whose answer was lost: a cancelled boot must end within 2 s."""
SETTINGS = frozenset({
    "partition", "account", "qos", "time", "mem", "gres", "python", "setup", "host", "logs", "journal",
    "cpus_per_task", "nodes", "port", "queue_timeout",
})  # fmt: skip
"""The arguments that a text of this name sets. A text of any other name is an option of sbatch."""
LOGS = "~/.cache/dragonfly_executor/slurm"


class SlurmBackend(Backend):
    """Boots runners as jobs of a Slurm cluster, one job per runner. Jobs that begin at once are submitted as an array.

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
    max_boots_per_request = MAX_ARRAY
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
        self._accounting = Accounting(self._commands)
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
        own = {name: text for name, text in settings.items() if name in SETTINGS}
        options = {name: text for name, text in settings.items() if name not in SETTINGS}
        return cls(**arguments_from_text(own, cpus_per_task=int, nodes=int), options=options)

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
        (node,) = self._submit([request], Deadline(request.timeout, request.given_up))
        return node

    def boot_many(self, requests: Sequence[BootRequest]) -> Iterator[tuple[BootRequest, Node | BootError]]:
        """See `Backend.boot_many`. The nodes are the elements of a job array, as far as Slurm takes arrays."""
        left = [*requests]
        while left:
            part = left[: self.max_boots_per_request]
            try:
                nodes = self._submit(part, Deadline(part[0].timeout, when_all_given_up(part))) if len(part) > 1 else []
            except ArraysRefusedError:
                if len(part) > self.max_boots_per_request:
                    continue
                nodes = []
            yield from _one_by_one(part, nodes) if nodes else super().boot_many(part)
            del left[: len(part)]

    def list_nodes(self) -> Sequence[FoundNode]:
        """See `Backend.list_nodes`."""
        return self._leftovers.find(Deadline(SWEEP_TIMEOUT))

    def destroy_nodes(self, nodes: Iterable[FoundNode]) -> SweepResult[FoundNode]:
        """See `Backend.destroy_nodes`."""
        return self._leftovers.destroy(nodes, Deadline(SWEEP_TIMEOUT))

    def _submit(self, requests: Sequence[BootRequest], deadline: Deadline) -> list[SlurmNode]:
        """Submit a job, or an array with an element for each request.

        Raises:
            BootError: there is no job.
            ArraysRefusedError: Slurm takes no such array. `max_boots_per_request` is the size that it takes now, and
                stays as it was if only the user's limit of jobs is reached: then single jobs may still fit.
        """
        pool, count = requests[0].parent.pool, len(requests)
        name = node_name(pool)
        entries = self._leftovers.entries(name, pool, count)
        options = self._options_for(requests[0])
        self._records.begin(*entries)
        try:
            job_id = self._sbatch(name, entries[0].label, options, [request.parent for request in requests], deadline)
        except SlurmError as error:
            self._undo(name, entries, error)
            if count > 1 and is_over_limit(error):
                raise ArraysRefusedError from error
            if count > 1 and is_about_arrays(error):
                self.max_boots_per_request = self._array_size(count, error, deadline)
                raise ArraysRefusedError from error
            raise BootError(str(error), "create", final=error.final) from error
        ids = [job_id] if count == 1 else [f"{job_id}_{index}" for index in range(count)]
        known = [entry._replace(node_id=each) for entry, each in zip(entries, ids, strict=True)]
        self._records.complete(known[0], f"job {job_id}", *known[1:])
        capacity = capacity_of(options, frozenset() if requests[0].requires is None else requests[0].requires.labels)
        return [self._node(entry, request, capacity) for entry, request in zip(known, requests, strict=True)]

    def _node(self, entry: JournalEntry, request: BootRequest, capacity: Capacity) -> SlurmNode:
        job_id = entry.node_id or ""
        log = self._logs / f"{job_id}.log"
        forget, abandon = (lambda: self._records.forget(entry)), (lambda: self._records.abandon(entry, job_id))
        node = SlurmNode(
            job_id, entry.name, self._commands, self._queue, log, forget, abandon,
            shares_disk=self._shares_disk, accounting=self._accounting, request=request,
            queue_timeout=self._queue_timeout, keeps_log=self._keeps_logs,
        )  # fmt: skip
        node.capacity = capacity
        request.queued()
        self._sweeps.node_came(FIRST_SWEEP_TIMEOUT)
        node.call_when_stopped(self._sweeps.node_left)
        return node

    def _options_for(self, request: BootRequest) -> dict[str, Option]:
        """Return the options of a job that has what the calls which wait for it require."""
        return self._options if request.requires is None else meet(self._options, request.requires, self.labels)

    def _sbatch(
        self,
        name: str,
        label: OwnerLabel | None,
        options: Mapping[str, Option],
        parents: Sequence[Parent],
        deadline: Deadline,
    ) -> str:
        with suppress(OSError):
            # The nodes may see this folder though this machine may not write to it.
            self._logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        own = own_options(name, "" if label is None else comment_of(label), str(self._logs), len(parents))
        command = [self._python, "-P", *runner_options(), "-m", "dragonfly_executor.runner"]
        text = script(command, self._setup, len(parents))
        env = {**self._env, **environment(parents)}
        return self._commands.submit(command_line({**options, **own}), text, env, deadline)

    def _array_size(self, count: int, error: SlurmError, deadline: Deadline) -> int:
        """Return how many elements an array may have, after one with `count` elements was refused with this error."""
        size = 0
        with suppress(SlurmError):
            size = self._commands.max_array_size(deadline)
        size = size if size < count else 1
        then = f"boots {size} jobs at once at most" if size > 1 else "submits each job by itself"
        logger.warning("Slurm refused an array of %d jobs (%s): the pool %s from now on", count, error, then)
        return max(1, size)

    def _undo(self, name: str, entries: Sequence[JournalEntry], error: SlurmError) -> None:
        """Cancel the jobs of a submission whose answer was lost."""
        jobs: list[Job] = []
        if error.may_have_happened:
            deadline = Deadline(UNDO_TIMEOUT)
            try:
                jobs = self._commands.named(name, deadline)
                self._commands.cancel([job.job_id for job in jobs], deadline)
            except SlurmError as why:
                then = ""
                for entry in entries:
                    then = self._records.abandon(entry, entry.name)
                logger.warning("the boot failed, but job %s may wait or run: %s. %s", name, why, then)
                return
        for entry in entries:
            if jobs or not error.may_have_happened:
                self._records.forget(entry)
            else:
                # The submission may still be under way.
                self._records.abandon(entry, entry.name)


def _one_by_one(requests: Sequence[BootRequest], nodes: Sequence[SlurmNode]) -> Iterator[tuple[BootRequest, Node]]:
    """Yield each request with its node. If the caller asks for no more of them, stop the others."""
    left = [*nodes]
    try:
        for request, node in zip(requests, nodes, strict=True):
            left.remove(node)
            yield request, node
    finally:
        for node in left:
            node.stop()
