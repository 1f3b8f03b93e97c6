"""`RayBackend`: runs each runner as an actor of a Ray cluster."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dragonfly_executor.backends.backend_check import BackendCheck
from dragonfly_executor.backends.base import BootRequest
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.engine_tasks.backend import EngineTaskBackend
from dragonfly_executor.backends.from_text import amounts, arguments_from_text, pairs
from dragonfly_executor.backends.own_address import address_toward
from dragonfly_executor.backends.ray.options import meet, slots_of
from dragonfly_executor.errors import BootError

if TYPE_CHECKING:
    from typing import Unpack

    from dragonfly_executor.backends.ray.driver_process import DriverProcess
    from dragonfly_executor.backends.ray.node import RayNode
    from dragonfly_executor.backends.tier_keywords import TierKeywords
    from dragonfly_executor.sync.options import Sync
    from dragonfly_executor.util.validation import Seconds

CHECK_TIMEOUT = 30.0
"""Seconds for each part of a check of the doctor. The driver takes some of them to start."""
OWN = frozenset({"max_concurrency", "max_restarts", "max_task_retries", "concurrency_groups", "lifetime", "name"})
"""Options of actors that the backend sets itself, or with which an actor outlives its pool."""


class RayBackend(EngineTaskBackend["DriverProcess", "RayNode"]):
    """Boots runners as actors of a Ray cluster, one actor per runner.

    The cluster's nodes must have this package, and must reach the machine of this program over the network: a runner
    dials back to it. An actor that waits for resources is not late: `boot_timeout` counts from when it runs. Ray's
    autoscaler starts nodes for actors that wait.

    A process of the backend's own, the driver, is connected to Ray while there are boots or runners. Ray ends the
    actors of a driver that has ended.

    Args:
        address: of the cluster, as for ``ray.init``: "auto", "HOST:PORT" or "ray://HOST:10001". Default: the
            cluster that this program is connected to, otherwise "auto".
        num_cpus: CPUs of an actor, and the number of calls at once on its runner, rounded down; default 1.
        num_gpus, memory, accelerator_type, resources: other resources of an actor; memory in bytes.
        label_selector: labels that an actor's node must have.
        scheduling_strategy: Ray's: "DEFAULT", "SPREAD", or an object such as `PlacementGroupSchedulingStrategy`.
        runtime_env: of the actors, and so of the calls.
        namespace: of the actors.
        options: more options of Ray's actors, by name.
        python: the interpreter of the runners on the nodes; default: that of Ray's worker.
        env: environment variables for the runners, in addition to those of Ray's worker.
        host: the address of this machine that the nodes dial; default: the one from which it reaches the cluster.
        port: the port to listen on; default: any free port.
        queue_timeout: seconds (or a `timedelta`) that an actor may wait for resources. Default: as long as it takes.
        sync: which files of this program are sent to the runners; see `SSHBackend`. None: no files, as the nodes see
            this machine's files under the same paths.
        requirements: third-party packages to install on each node; see `SSHBackend`.
        labels: free labels of the runners, such as ``{"eu"}``.
        tier: `max`, `idle_shutdown_after` and `budget` of the runners of this backend; see `Backend.set_limits`.

    Raises:
        ImportError: `ray` is not installed.
        TypeError, ValueError: an argument is invalid.
    """

    name = "ray"

    def __init__(
        self,
        address: str | None = None,
        *,
        num_cpus: float | None = None,
        num_gpus: float | None = None,
        memory: int | None = None,
        accelerator_type: str | None = None,
        resources: Mapping[str, float] | None = None,
        label_selector: Mapping[str, str] | None = None,
        scheduling_strategy: Any = None,
        runtime_env: Mapping[str, Any] | None = None,
        namespace: str | None = None,
        options: Mapping[str, Any] | None = None,
        python: str | None = None,
        env: Mapping[str, str] | None = None,
        host: str | None = None,
        port: int = 0,
        queue_timeout: Seconds | None = None,
        sync: Sync | str | Iterable[str | os.PathLike[str]] | None = "auto",
        requirements: Iterable[str] | str | os.PathLike[str] | None = None,
        labels: Iterable[str] = (),
        **tier: Unpack[TierKeywords],
    ) -> None:
        _check_installed()
        super().__init__(
            python=python,
            env=env,
            host=host,
            port=port,
            queue_timeout=queue_timeout,
            sync=sync,
            requirements=requirements,
            labels=labels,
            **tier,
        )
        refused = OWN & set(options or {})
        if refused:
            raise ValueError(f"RayBackend sets the actor option {min(refused)!r} itself: leave it out")
        named = {
            "num_cpus": 1 if num_cpus is None else num_cpus, "num_gpus": num_gpus, "memory": memory,
            "accelerator_type": accelerator_type, "resources": resources and dict(resources),
            "label_selector": label_selector and dict(label_selector), "scheduling_strategy": scheduling_strategy,
            "runtime_env": runtime_env and dict(runtime_env),
        }  # fmt: skip
        self._actor_options = {name: value for name, value in named.items() if value is not None} | dict(options or {})
        self._address = address or _address_here()
        self._namespace = namespace

    @classmethod
    def from_text(cls, **settings: str) -> RayBackend:
        """Make a backend from texts, as a command line gives them.

        Args:
            settings: arguments of the class; `resources` as "NAME=AMOUNT NAME=AMOUNT", and `label_selector` likewise.

        Raises:
            ImportError, TypeError, ValueError: see the class.
        """
        read = arguments_from_text(
            settings, num_cpus=float, num_gpus=float, memory=int, resources=amounts, label_selector=pairs
        )
        return cls(**read)

    def __repr__(self) -> str:
        return f"RayBackend({self._address!r})"

    def default_slots(self) -> int:
        """See `Backend.default_slots`."""
        return slots_of(self._actor_options)

    def checks(self) -> Iterable[BackendCheck]:
        """See `Backend.checks`: the cluster, and the nodes that have what an actor asks for."""
        client = self._shared.acquire()
        try:
            look = client.look(CHECK_TIMEOUT)
        finally:
            self._shared.release(client)
        if isinstance(look, str):
            advice = "see `ray status`, and that the cluster's ports are open from here"
            yield BackendCheck("nodes", False, f"{self._unconnected}: {look}", advice)
        else:
            yield BackendCheck("nodes", True, look.census(self._actor_options))

    @property
    def _unconnected(self) -> str:
        return f"cannot connect to the Ray cluster at {self._address}"

    def _own_address(self) -> str:
        return _own_address(self._address)

    def _make_node(self, client: DriverProcess, request: BootRequest) -> RayNode:
        from dragonfly_executor.backends.ray.node import RayNode
        from dragonfly_executor.backends.ray.runner_actor import RunnerActor

        Deadline(request.timeout, request.given_up, client.connected).pause(request.timeout)
        if client.error or not client.connected.is_set():
            text = f"{self._unconnected}: {client.error or 'it does not answer'}"
            raise BootError(text, "create", output=client.error)
        options = meet(self._actor_options, request.requires, self.labels)
        actor = RunnerActor(self._task_key(request), self._order(request), options, request.ending)
        return RayNode(
            actor, client, request, shares_disk=self._shares_disk, on_stopped=lambda: self._shared.release(client)
        )

    def _queue(self, node: RayNode, client: DriverProcess) -> None:
        client.boot(node.task)

    def _connect(self) -> DriverProcess:
        from dragonfly_executor.backends.ray.driver_process import DriverProcess

        return DriverProcess(self._address, self._namespace)


def _check_installed() -> None:
    from importlib.util import find_spec

    if find_spec("ray") is None:
        raise ImportError("RayBackend needs Ray: pip install 'dragonfly-executor[ray]'")


def _address_here() -> str:
    """Return the address of the cluster that this process is connected to; "auto" if it is not."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return str(ray.get_runtime_context().gcs_address)
    return "auto"


def _own_address(cluster: str) -> str:
    """Return the address of this machine from which the cluster is reached."""
    if cluster in ("auto", "local"):
        cluster = os.environ.get("RAY_ADDRESS", "") or _cluster_of_this_machine()
    return address_toward(urlsplit(cluster if "://" in cluster else f"ray://{cluster}").hostname or "localhost")


def _cluster_of_this_machine() -> str:
    """Return the address of the cluster that was started on this machine, as Ray has written it down; "" if none."""
    try:
        return Path(tempfile.gettempdir(), "ray", "ray_current_cluster").read_text().strip()
    except OSError:
        return ""
