"""A real Slurm of one machine: munged, slurmctld and slurmd from Debian's packages, on the loopback alone."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")
START_TIMEOUT = 60.0
"""Seconds until the cluster must be up."""
PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))

CONFIG = """\
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1
ReturnToService=2
KillWait=5
MinJobAge=60
InactiveLimit=0
SlurmctldParameters=enable_configless
SlurmdParameters=config_overrides
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=8000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes=ALL MaxTime=1 State=UP
"""


def missing_programs() -> list[str]:
    """Return the programs of Slurm and munge that this machine does not have."""
    return [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]


class SlurmCluster:
    """The daemons of a cluster, and what its users need to know.

    Args:
        folder: where all of its files go. Its path must be short: a Unix socket is in it.
        cpus: number of CPUs that the node claims to have. A runner with one CPU then finds room for that many.

    Attributes:
        env: the environment in which Slurm's commands find this cluster.
    """

    def __init__(self, folder: Path, cpus: int = 4) -> None:
        self.folder = folder
        self.env: Mapping[str, str] = {**os.environ, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        host = socket.gethostname().partition(".")[0]
        for name in ("state", "spool"):
            (folder / name).mkdir()
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o600)
        ports = dict(zip(("ctld_port", "slurmd_port"), _free_ports(2), strict=True))
        (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, host=host, cpus=cpus, **ports))

    def start(self) -> None:
        """Start the daemons and wait until the node is idle."""
        folder = self.folder
        files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        self._start("munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *files)
        self.wait_until(lambda: (folder / "munge.socket").exists(), "munged")
        self._start("slurmctld", "-D", "-f", str(folder / "slurm.conf"))
        self.start_node()

    def start_controller(self) -> None:
        """Start slurmctld again, and wait until it has heard from the node."""
        self._start("slurmctld", "-D", "-f", str(self.folder / "slurm.conf"))
        self._wait_for_node()

    def start_node(self) -> None:
        """Start slurmd, or start it again."""
        self._start("slurmd", "-D", "-f", str(self.folder / "slurm.conf"))
        self._wait_for_node()

    def _wait_for_node(self) -> None:
        ready = ("idle", "mixed", "allocated")
        self.wait_until(lambda: self.run("sinfo", "-h", "-p", "debug", "-o", "%T").strip() in ready, "the node")

    def kill(self, daemon: str) -> None:
        """Kill a daemon with SIGKILL."""
        process = self._daemons.pop(daemon)
        process.kill()
        process.wait()

    def terminate(self, daemon: str) -> None:
        """End a daemon in order: a controller saves its state, which it writes only every few seconds otherwise."""
        process = self._daemons.pop(daemon)
        process.terminate()
        process.wait()

    def forget_jobs(self) -> None:
        """Remove what a controller, which does not run, has written of its jobs."""
        for file in (self.folder / "state").glob("job_state*"):
            file.unlink()

    def run(self, *command: str) -> str:
        """Run one of Slurm's commands and return what it prints; "" if it fails."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=30, check=False)
        return done.stdout if done.returncode == 0 else ""

    def jobs(self) -> list[str]:
        """Return the ids of the jobs that wait or run, and of each element of an array."""
        return self.run("squeue", "-h", "-r", "-o", "%i").split()

    def submit(self, *options: str) -> str:
        """Submit a job of the test's own, and return its id."""
        return self.run("sbatch", "--parsable", f"--output={self.folder}/own.log", *options).strip()

    def state(self, job_id: str) -> str:
        """Return the state of a job; "" if Slurm has forgotten it."""
        return self.run("squeue", "-h", "-t", "all", "-j", job_id, "-o", "%T").strip()

    def stop(self) -> None:
        """Cancel all jobs and end the daemons."""
        if self.jobs():
            self.run("scancel", "--signal=KILL", "--full", *self.jobs())
            self.run("scancel", "--user=root")
            self.wait_until(lambda: not self.jobs(), "the end of all jobs")
        for process in reversed(self._daemons.values()):
            process.send_signal(signal.SIGTERM)
        for process in self._daemons.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._daemons.clear()

    def _start(self, program: str, *arguments: str) -> None:
        log = (self.folder / f"{program}.out").open("ab")
        with log:
            found = shutil.which(program, path=PATH)
            assert found is not None
            self._daemons[program] = subprocess.Popen(
                [found, *arguments], env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def wait_until(self, is_so: Callable[[], object], what: str) -> None:
        """Wait until `is_so` returns something true. If it does not, fail with the daemons' logs."""
        end = time.monotonic() + START_TIMEOUT
        while not is_so():
            if time.monotonic() > end:
                raise AssertionError(f"{what} did not come: {self._logs()}")
            # Slurm and munge tell nobody when they are ready: asking is all there is.
            time.sleep(0.05)

    def _logs(self) -> str:
        files = [*self.folder.glob("*.log"), *self.folder.glob("*.out")]
        return "\n".join(f"{file.name}: {file.read_text(errors='replace')[-2000:]}" for file in files)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


@contextmanager
def slurm_cluster(folder: Path, cpus: int = 4) -> Iterator[SlurmCluster]:
    """Yield a cluster that is up; end it afterwards."""
    cluster = SlurmCluster(folder, cpus)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
