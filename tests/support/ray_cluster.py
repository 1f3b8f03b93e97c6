"""A real Ray of one machine: a head with its GCS and raylet, which a test may kill."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import psutil

from tests.support.census import MARK

START_TIMEOUT = 90.0
END_TIMEOUT = 15.0
DAEMONS = ("gcs_server", "raylet")


def has_ray() -> bool:
    """Return True if `ray` is installed. There are no wheels for each Python and machine."""
    return find_spec("ray") is not None


class RayCluster:
    """The processes of a head node with a small object store and no dashboard.

    Args:
        folder: where its files go. Its path must be short: Unix sockets are in it.
        cpus: number of CPUs that it claims to have.
        more_nodes: number of nodes of one CPU that its autoscaler may start, as processes of this machine.
        token: what its drivers must know; None lets all in.
    """

    def __init__(self, folder: Path, cpus: int = 2, more_nodes: int = 0, token: str | None = None) -> None:
        self.folder, self.cpus = folder, cpus
        self._more_nodes = more_nodes
        self.address = ""
        self._port = _free_port()
        # Ray keeps idle workers, which no test has left behind. The timeout is that of the search for a lost GCS.
        unmarked = {name: value for name, value in os.environ.items() if name != MARK}
        self._env = {**unmarked, "RAY_gcs_rpc_server_reconnect_timeout_s": "5", "RAY_USAGE_STATS_ENABLED": "0"}
        # Otherwise, a cluster wants a token if the user's home folder has one.
        self._env |= {"RAY_AUTH_MODE": "disabled"} if token is None else {"RAY_AUTH_MODE": "token"}
        self._env |= {} if token is None else {"RAY_AUTH_TOKEN": token}
        # Ray's provider of nodes for tests wants the second of these.
        self._env |= {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"} if more_nodes else {}

    def start(self) -> None:
        """Start the head, or start it again at the same port, and wait until it takes drivers."""
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--head", "--port", str(self._port),
            "--node-ip-address", "127.0.0.1", "--num-cpus", str(self.cpus), "--object-store-memory", "80000000",
            "--include-dashboard", "false", "--disable-usage-stats", "--temp-dir", str(self.folder),
        ]  # fmt: skip
        if self._more_nodes:
            command += ["--autoscaling-config", str(self._autoscaling())]
        with (self.folder / "start.log").open("wb") as log:
            subprocess.run(
                command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=START_TIMEOUT,
                check=True,
            )
        # Ray takes this machine's own address for the loopback's.
        self.address = (self.folder / "ray_current_cluster").read_text().strip()

    def _autoscaling(self) -> Path:
        """Write the configuration of the autoscaler. Its schema wants the empty entries as well."""
        lists = (
            "cluster_synced_files", "head_setup_commands", "head_start_ray_commands", "initialization_commands",
            "rsync_exclude", "rsync_filter", "setup_commands", "worker_setup_commands", "worker_start_ray_commands",
        )  # fmt: skip
        small = {"resources": {"CPU": 1, "object_store_memory": 80_000_000}, "node_config": {}}
        config = {
            **{name: [] for name in lists},
            **{name: {} for name in ("auth", "file_mounts", "head_node", "worker_nodes")},
            "cluster_name": "test", "file_mounts_sync_continuously": False, "upscaling_speed": 1.0,
            "idle_timeout_minutes": 10, "max_workers": self._more_nodes,
            "provider": {"type": "fake_multinode", "gcs_address": f"127.0.0.1:{self._port}"},
            "head_node_type": "ray.head.default",
            "available_node_types": {
                "ray.head.default": {"resources": {"CPU": self.cpus}, "node_config": {}, "max_workers": 0},
                "small": {**small, "min_workers": 0, "max_workers": self._more_nodes},
            },
        }  # fmt: skip
        path = self.folder / "autoscaling.json"
        path.write_text(json.dumps(config))
        return path

    def processes(self) -> list[psutil.Process]:
        """Return all processes of this cluster. They are no children of this process."""
        mark = str(self.folder)
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if any(mark in word for word in process.cmdline()):
                    found.append(process)
        below = [child for process in found for child in _children(process)]
        return [*{process.pid: process for process in [*found, *below]}.values()]

    def daemon(self, name: str) -> psutil.Process:
        """Return a daemon: "gcs_server" or "raylet"."""
        (found,) = (process for process in self.processes() if Path(process.cmdline()[0]).name == name)
        return found

    def kill(self, name: str) -> None:
        """Kill a daemon with SIGKILL."""
        daemon = self.daemon(name)
        daemon.kill()
        psutil.wait_procs([daemon], END_TIMEOUT)

    def drain(self, seconds: float) -> None:
        """Announce that the node goes after this time, as for a preemption."""
        # In a process of its own: Ray keeps descriptors in each process that was connected.
        script = "import ray, sys; ray.init(sys.argv[1]); print(ray.nodes()[0]['NodeID'])"
        asked = [sys.executable, "-c", script, self.address]
        found = subprocess.run(asked, env=self._env, capture_output=True, text=True, timeout=60, check=True)
        node = found.stdout.split()[-1]
        command = [
            str(Path(sys.executable).with_name("ray")), "drain-node", "--address", self.address, "--node-id", node,
            "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a test",
            "--deadline-remaining-seconds", str(seconds),
        ]  # fmt: skip
        subprocess.run(command, env=self._env, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True)

    def agents(self) -> list[psutil.Process]:
        """Return the agents that run below Ray's workers."""
        return [process for process in self.processes() if _is_agent(process)]

    def stop(self) -> None:
        """End all processes of the cluster."""
        while processes := self.processes():
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(processes, END_TIMEOUT)

    def wait_until(self, is_so: Callable[[], object], what: str) -> None:
        """Wait until `is_so` returns something true."""
        end = time.monotonic() + START_TIMEOUT
        while not is_so():
            assert time.monotonic() < end, f"{what} did not come"
            # Ray's processes tell nobody what they do: asking is all there is.
            time.sleep(0.05)


def _children(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


def _is_agent(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return "dragonfly_executor.runner" in process.cmdline() or process.name().startswith("dragonfly")
    return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def ray_cluster(cpus: int = 2, more_nodes: int = 0, token: str | None = None) -> Iterator[RayCluster]:
    """Yield a cluster that is up; end it and remove its files afterwards."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        cluster = RayCluster(Path(folder), cpus, more_nodes, token)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
