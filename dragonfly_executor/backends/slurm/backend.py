"""`SlurmBackend`: submits a job to a Slurm cluster for each runner, and cancels it when the pool stops the runner."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dragonfly_executor.backends.agent_command import portable_options
from dragonfly_executor.backends.base import Backend, BootRequest, Node
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.slurm.commands import SlurmCommands, SlurmError
from dragonfly_executor.backends.slurm.job import NEVER_STARTS, Job
from dragonfly_executor.backends.slurm.node import SlurmNode
from dragonfly_executor.backends.slurm.options import Minutes, Option, check_options, command_line, time_limit
from dragonfly_executor.backends.slurm.queue_view import QueueView
from dragonfly_executor.errors import BootError, BootTimeoutError
from dragonfly_executor.protocol.parent import VARIABLE
from dragonfly_executor.sync.options import Sync
from dragonfly_executor.util.validation import duration, whole

if TYPE_CHECKING:
    from dragonfly_executor.util.validation import Seconds

INFINITY = float("inf")
PREFIX = "dragonfly-"
"""The beginning of the names of all jobs."""
NOTICE = 30
"""Seconds before a job's time limit at which Slurm sends SIGTERM to its runner. The runner gives its calls 25 s."""
UNDO_TIMEOUT = 1.5
"""Seconds for cancelling the job of a boot that was cancelled, which must end within 2 s."""
NUMBERS = ("cpus_per_task", "nodes", "port", "queue_timeout")
TEXTS = ("partition", "account", "qos", "time", "mem", "gres", "python", "setup", "host", "logs")
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

    Raises:
        TypeError, ValueError: an argument is invalid.
    """

    name = "slurm"
    dials_back = True
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
    ) -> None:
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
        self._queue_timeout = None if queue_timeout is None else duration(queue_timeout, "queue_timeout")
        self._keeps_logs = logs is not None
        self._logs = Path(logs or LOGS).expanduser()
        self._commands = SlurmCommands(command_env)
        self._queue = QueueView(self._commands)

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
        """See `Backend.boot`. The job waits in Slurm's queue inside of this."""
        name = f"{PREFIX}{os.getpid()}-{request.runner_id}-{os.urandom(4).hex()}"
        deadline = Deadline(request.timeout, request.given_up)
        try:
            job_id = self._submit(name, request, deadline)
        except SlurmError as error:
            self._undo(name, error)
            raise BootError(str(error), "create", final=error.final) from error
        log = self._logs / f"{job_id}.log"
        node = SlurmNode(
            job_id, name, self._commands, self._queue, log, shares_disk=self._shares_disk, keeps_log=self._keeps_logs
        )
        try:
            self._wait_in_queue(node, request)
        except BaseException:
            node.stop(UNDO_TIMEOUT)
            raise
        return node

    def _submit(self, name: str, request: BootRequest, deadline: Deadline) -> str:
        with suppress(OSError):
            # The nodes may see this folder though this machine may not write to it.
            self._logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        own: dict[str, Option] = {
            "job_name": name,
            "comment": f"dragonfly_executor pool={request.parent.pool} host={request.parent.host} pid={os.getpid()}",
            "output": f"{self._logs}/%j.log",
            "export": "ALL",
            "no_requeue": True,
            "signal": f"B:TERM@{NOTICE}",
        }
        # The description holds the token: it goes over the environment, which only this user sees.
        env = {**self._env, VARIABLE: request.parent.encode()}
        return self._commands.submit(command_line({**self._options, **own}), self._script(), env, deadline)

    def _script(self) -> str:
        options = [option for option in portable_options() if option != "-P"]
        command = [self._python, "-P", *options, "-m", "dragonfly_executor.runner"]
        # exec: Slurm's SIGTERM goes to the batch shell, which has to be the runner.
        return f"#!/bin/sh\n{self._setup}\nexec {shlex.join(command)}\n"

    def _undo(self, name: str, error: SlurmError) -> None:
        """Cancel the job of a submission whose answer was lost."""
        if error.may_have_happened:
            deadline = Deadline(UNDO_TIMEOUT)
            with suppress(SlurmError):
                self._commands.cancel([job.job_id for job in self._commands.named(name, deadline)], deadline)

    def _wait_in_queue(self, node: SlurmNode, request: BootRequest) -> None:
        """Wait until the job runs, or until its runner has dialed back.

        Raises:
            BootError: the job ended, will never start, or waited for too long.
        """
        request.queued()
        seconds = INFINITY if self._queue_timeout is None else self._queue_timeout
        # A runner that has dialed back ends the wait, too.
        deadline = Deadline(seconds, request.given_up, request.dialed_in)
        job: Job | None = None
        while not deadline.is_over:
            with suppress(SlurmError, TimeoutError):  # a controller that is away says nothing about the job
                job = node.look(deadline)
                if job is None or job.has_ended:
                    raise node.error_of_end(job, "queue")
                if not job.waits:
                    break
                if job.reason in NEVER_STARTS:
                    text = f"{job.describe()}: {NEVER_STARTS[job.reason]}"
                    raise BootError(text, "queue", final=True)
        if request.given_up is not None and request.given_up.is_set():
            raise BootError("the boot was cancelled", "queue")
        if deadline.is_over and not deadline.is_cancelled:
            said = f"job {node.job_id}" if job is None else job.describe()
            raise BootTimeoutError(f"{said}, and did not start within {seconds:g} s (queue_timeout)", "queue")
        request.started()
