"""A real Dask cluster of processes on the loopback: a scheduler and workers, which a test may kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psutil

START_TIMEOUT = 60.0
RUNNER = "dragonfly_executor.runner"


def has_dask() -> bool:
    """Return True if `distributed` is installed."""
    return find_spec("distributed") is not None


class DaskCluster:
    """The processes of a cluster.

    Args:
        folder: where their logs and scratch files go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._env = {
            **os.environ,
            "DASK_TEMPORARY_DIRECTORY": str(folder),
            # A test that kills a scheduler must not wait half a minute for what looks for it.
            "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s",
        }
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.address = ""

    def start_scheduler(self, port: int = 0) -> None:
        """Start the scheduler, and wait until it listens. `port` 0 takes any free port."""
        file = self.folder / "scheduler.json"
        file.unlink(missing_ok=True)
        self.scheduler = self._start(
            "scheduler", "dask_scheduler",
            *["--host", "127.0.0.1", "--port", str(port), "--no-dashboard", "--scheduler-file", str(file)],
        )  # fmt: skip
        self.wait_until(lambda: file.exists() and file.read_text().endswith("}"), "the scheduler")
        self.address = json.loads(file.read_text())["address"]

    def start_worker(self, name: str, *options: str, nanny: bool = False) -> None:
        """Start a worker with one thread, and wait until it is there."""
        log = self.folder / f"{name}.log"
        seen = log.read_text().count("Registered to") if log.exists() else 0
        words = ["--host", "127.0.0.1", "--no-dashboard", "--nthreads", "1", "--name", name, *options]
        words += ["--nanny" if nanny else "--no-nanny", self.address]
        self.workers[name] = self._start(name, "dask_worker", *words)
        self.wait_until(lambda: log.read_text().count("Registered to") > seen, f"worker {name}")

    def kill_scheduler(self) -> None:
        """Kill the scheduler with SIGKILL."""
        assert self.scheduler is not None
        _kill(self.scheduler)

    def kill_worker(self, name: str) -> None:
        """Kill a worker with SIGKILL."""
        _kill(self.workers.pop(name))

    def agents(self) -> list[psutil.Process]:
        """Return the agents that run below the workers."""
        found = []
        for worker in self.workers.values():
            try:
                below = psutil.Process(worker.pid).children(recursive=True)
            except psutil.NoSuchProcess:
                continue
            found += [process for process in below if _is_agent(process)]
        return found

    def stop(self) -> None:
        """End all processes."""
        # Workers first: one that is told to end while it loses its scheduler may hang.
        _terminate([*self.workers.values()])
        if self.scheduler is not None:
            _terminate([self.scheduler])
        self.workers.clear()

    def wait_until(self, is_so: Callable[[], object], what: str) -> None:
        """Wait until `is_so` returns something true. If it does not, fail with the logs."""
        end = time.monotonic() + START_TIMEOUT
        while not is_so():
            if time.monotonic() > end:
                logs = "\n".join(f"{log.name}: {log.read_text()[-2000:]}" for log in self.folder.glob("*.log"))
                raise AssertionError(f"{what} did not come: {logs}")
            # Dask's programs tell nobody when they are ready: asking is all there is.
            time.sleep(0.02)

    def _start(self, name: str, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{module}", *arguments],
                env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip


def _is_agent(process: psutil.Process) -> bool:
    try:
        return RUNNER in process.cmdline() or "agent" in process.name()
    except psutil.NoSuchProcess:
        return False


def _terminate(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


@contextmanager
def dask_cluster(folder: Path, *names: str) -> Iterator[DaskCluster]:
    """Yield a cluster with these workers; end it afterwards."""
    cluster = DaskCluster(folder)
    try:
        cluster.start_scheduler()
        for name in names:
            cluster.start_worker(name)
        yield cluster
    finally:
        cluster.stop()
