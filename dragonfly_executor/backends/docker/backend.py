"""`DockerBackend`: starts a container for each runner, and removes it when the pool stops the runner."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dragonfly_executor.backends.agent_command import runner_options
from dragonfly_executor.backends.background_sweep import BackgroundSweeper
from dragonfly_executor.backends.base import Backend, BootRequest, Node
from dragonfly_executor.backends.docker.sizes import SIZE_KEYS, ContainerSize, ContainerSizes, memory_bytes
from dragonfly_executor.backends.from_text import arguments_from_text, truth, words
from dragonfly_executor.backends.journal import JournalEntry, open_journal
from dragonfly_executor.backends.journal_writer import JournalWriter
from dragonfly_executor.backends.label import node_name
from dragonfly_executor.errors import BootError
from dragonfly_executor.protocol.parent import VARIABLE
from dragonfly_executor.sync.options import Sync
from dragonfly_executor.util.validation import labels as checked_labels
from dragonfly_executor.util.validation import whole

if TYPE_CHECKING:
    from typing import Unpack

    from dragonfly_executor.backends.deadline import Deadline
    from dragonfly_executor.backends.docker.engine import DockerEngine
    from dragonfly_executor.backends.docker.leftovers import DockerLeftovers
    from dragonfly_executor.backends.docker.node import DockerNode
    from dragonfly_executor.backends.found_node import FoundNode, SweepResult
    from dragonfly_executor.backends.tier_keywords import TierKeywords
    from dragonfly_executor.core.capacity import Capacity

SOCKET = "/var/run/docker.sock"
FIRST_SWEEP_TIMEOUT = 10.0
OWN = frozenset({"Image", "Cmd", "Env", "Labels", "HostConfig"})
"""Parts of a container's configuration that have arguments of their own."""


class DockerBackend(Backend):
    """Boots runners in containers of a Docker Engine, one container per runner.

    A runner dials back to this program. By default the containers share this machine's network, so they reach it over
    loopback. A container is removed with its runner. If this program is killed, its runners end, and a sweep removes
    their containers.

    Args:
        image: the image, which must be on the Engine's machine: ``docker pull`` it first. It needs Python and
            dragonfly_executor in this program's versions. Required for boots.
        socket: the Engine's Unix socket; default DOCKER_HOST (``unix://...``), otherwise /var/run/docker.sock.
        host: the address of this machine that the containers can reach. The pool listens there.
        port: the port to listen on; default: any free port.
        network: the containers' network. With another one than "host", `host` is required: for instance the address of
            the bridge.
        cpus: CPUs of a container, and the number of calls at once on its runner. Default: all CPUs.
        memory: memory of a container, in bytes, or as text such as "2g". Default: no limit.
        gpus: GPUs of a container (NVIDIA, by the NVIDIA Container Toolkit): a number. Default: none.
        larger_sizes: whether calls that require more than `cpus`, `memory` and `gpus` say (``options(requires=...)``)
            get a container that has it. If False, such calls fail when they are submitted.
        labels: free labels of the runners, such as ``{"eu"}``.
        env: environment variables for the runners. Do not put secrets here: ``docker inspect`` shows them.
        python: the interpreter in the image.
        host_config: more of the Engine's ``HostConfig``, such as ``{"Binds": ["/data:/data:ro"]}``.
        config: more of the container's configuration, such as ``{"User": "1000"}``.
        sync: which files of this program are sent to the runners; see `SSHBackend`.
        requirements: third-party packages to install in each container; see `SSHBackend`.
        journal: the folder of the journal; default ``$XDG_STATE_HOME/dragonfly_executor/docker``. False turns it off.
        sweep: whether to remove the containers of pools that are gone, beside the first boot.
        tier: `max`, `idle_shutdown_after` and `budget` of the runners of this backend; see `Backend.set_limits`.

    Raises:
        TypeError, ValueError: an argument is invalid.
        OSError: the journal's folder cannot be made.
        ImportError: httpx is not installed.
    """

    name = "docker"
    dials_back = True
    expected_boot_time = 2.0
    phases = ("create", "start", "connect", "handshake", "sync", "requirements")

    def __init__(
        self,
        image: str | None = None,
        *,
        socket: str | None = None,
        host: str | None = None,
        port: int = 0,
        network: str = "host",
        cpus: float | None = None,
        memory: int | str | None = None,
        gpus: int = 0,
        larger_sizes: bool = True,
        labels: Iterable[str] = (),
        env: Mapping[str, str] | None = None,
        python: str = "python",
        host_config: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        sync: Sync | str | Iterable[str | os.PathLike[str]] | None = "auto",
        requirements: Iterable[str] | str | os.PathLike[str] | None = None,
        journal: str | os.PathLike[str] | bool | None = None,
        sweep: bool = True,
        **tier: Unpack[TierKeywords],
    ) -> None:
        self.set_limits(**tier)
        if host is None and network != "host":
            raise ValueError(f"containers in the network {network!r} do not have this machine's loopback: give host=")
        if own := OWN & set(config or {}):
            raise ValueError(f"DockerBackend sets {', '.join(sorted(own))} itself: leave it out of config=")
        self.sync = Sync.of(sync, requirements)
        self._image = image or ""
        self._address = host or "127.0.0.1", whole(port, "port", 0)
        self.labels = checked_labels(labels, "labels")
        size = ContainerSize(_checked_cpus(cpus), memory_bytes(memory), whole(gpus, "gpus", 0))
        is_known = not SIZE_KEYS & set(host_config or {})
        self._sizes = ContainerSizes(size, self.labels, may_grow=bool(larger_sizes), is_known=is_known)
        self._env = dict(env or {})
        # Init: the runner is not process 1, whose orphans it would have to reap. No restart policy: see the guide.
        self._host_config = {"NetworkMode": network, "Init": True}
        self._more = dict(host_config or {})
        self._config = dict(config or {})
        options = runner_options()
        self._command = [python, "-P", *options, "-m", "dragonfly_executor.runner"]
        self._engine = _engine(find_socket(socket, os.environ))
        self.journal = open_journal(journal, "docker")
        self._leftovers = self._find_leftovers()
        self._sweeps = BackgroundSweeper(self._sweep, backend="docker", noun="container", wanted=bool(sweep))
        command = "dragonfly destroy --backend docker"
        self._records = JournalWriter(self.journal, self._sweeps.ask, noun="container", command=command)

    @classmethod
    def from_text(cls, **settings: str) -> DockerBackend:
        """Make a backend from texts, as a command line gives them. `requirements` are names of packages.

        Raises:
            TypeError, ValueError: see the class.
        """
        return cls(**arguments_from_text(settings, cpus=float, gpus=int, larger_sizes=truth, requirements=words))

    def __repr__(self) -> str:
        return f"DockerBackend({self._image!r}, socket={self._engine.socket!r})"

    def listen_address(self) -> tuple[str, int]:
        """See `Backend.listen_address`."""
        return self._address

    def default_slots(self) -> int | None:
        """See `Backend.default_slots`. A container sees all CPUs of its machine, whatever its share of them is."""
        return self._sizes.default.slots()

    def capacities(self) -> Sequence[Capacity]:
        """See `Backend.capacities`."""
        return (self._sizes.largest(),)

    def boot(self, request: BootRequest) -> Node:
        """Create a container and start it.

        Raises:
            BootError: there is no container. The error is `final` if Docker does not have the image, or refuses the
                configuration.
        """
        if not self._image:
            raise BootError("DockerBackend has no image=, so it cannot boot", final=True)
        from dragonfly_executor.backends.docker.engine import DockerError

        # The name is chosen before the request, so the container can be removed even if the answer is lost.
        name = node_name(request.parent.pool)
        entry = self._leftovers.entry(name, request.parent.pool)
        size = self._sizes.for_boot(request.requires)
        self._records.begin(entry)
        node = self._node(name, entry)
        node.capacity, node.default_slots = self._sizes.capacity(size), size.slots()
        phase = "create"
        try:
            body = self._body(request, entry, size)
            self._engine.ask("POST", "/containers/create", query={"name": name}, body=body, given_up=request.given_up)
            phase = "start"
            self._engine.ask("POST", f"/containers/{name}/start", given_up=request.given_up)
        except BaseException as error:
            is_refused = isinstance(error, DockerError) and 400 <= (error.status or 0) < 500
            if phase == "create" and isinstance(error, DockerError) and (error.is_away or is_refused):
                # Docker has created nothing.
                self._records.forget(entry)
            else:
                node.stop()
            if not isinstance(error, DockerError):
                raise
            advice = f" (docker pull {self._image})" if error.status == 404 and phase == "create" else ""
            text = f"no container of {self._image} could be started: {error}{advice}"
            raise BootError(text, phase, final=error.is_final) from error
        self._sweeps.node_came(FIRST_SWEEP_TIMEOUT)
        node.then = self._sweeps.node_left
        return node

    def list_nodes(self) -> Sequence[FoundNode]:
        """See `Backend.list_nodes`."""
        return self._leftovers.find()

    def destroy_nodes(self, nodes: Iterable[FoundNode]) -> SweepResult[FoundNode]:
        """See `Backend.destroy_nodes`."""
        return self._leftovers.destroy(nodes)

    def _find_leftovers(self) -> DockerLeftovers:
        from dragonfly_executor.backends.docker.leftovers import DockerLeftovers

        return DockerLeftovers(self._engine, self.journal)

    def _sweep(self, deadline: Deadline) -> SweepResult[FoundNode]:
        return self._leftovers.sweep()

    def _node(self, name: str, entry: JournalEntry) -> DockerNode:
        from dragonfly_executor.backends.docker.node import DockerNode

        forget, abandon = (lambda: self._records.forget(entry)), (lambda: self._records.abandon(entry, name))
        return DockerNode(self._engine, name, forget, abandon)

    def _body(self, request: BootRequest, entry: JournalEntry, size: ContainerSize) -> dict[str, Any]:
        env = {**self._env, VARIABLE: request.parent.encode()}
        return {
            **self._config,
            "Image": self._image,
            "Cmd": self._command,
            "Env": [f"{name}={value}" for name, value in env.items()],
            "Labels": {} if entry.label is None else entry.label.encode(),
            "HostConfig": {**self._host_config, **size.host_config(), **self._more},
        }


def find_socket(given: str | None, environment: Mapping[str, str]) -> str:
    """Return the path of the Engine's socket. ValueError for an Engine that has no Unix socket."""
    if given is not None:
        return given.removeprefix("unix://")
    found = environment.get("DOCKER_HOST", "")
    if found and not found.startswith("unix://"):
        raise ValueError(f"DOCKER_HOST is {found!r}, and DockerBackend speaks over a Unix socket only: give socket=")
    return found.removeprefix("unix://") or SOCKET


def _checked_cpus(cpus: float | None) -> float | None:
    if cpus is not None and (isinstance(cpus, bool) or not isinstance(cpus, (int, float)) or not 0 < cpus < 1e6):
        raise ValueError(f"cpus= must be a number above 0, and not {cpus!r}")
    return cpus


def _engine(socket: str) -> DockerEngine:
    try:
        from dragonfly_executor.backends.docker.engine import DockerEngine
    except ImportError as error:
        raise ImportError("DockerBackend needs httpx: pip install 'dragonfly-executor[docker]'") from error
    return DockerEngine(socket)
