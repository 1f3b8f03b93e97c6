"""`KubernetesBackend`: creates a Pod for each runner, and deletes it when the pool stops the runner."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dragonfly_executor.backends.background_sweep import BackgroundSweeper
from dragonfly_executor.backends.base import Backend, BootRequest, Node
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.from_text import arguments_from_text, truth
from dragonfly_executor.backends.kubernetes.access import ClusterAccess
from dragonfly_executor.backends.kubernetes.cluster import ClusterConnection
from dragonfly_executor.backends.kubernetes.manifest import (
    PodBlueprint,
    check_image,
    check_template,
    check_tolerations,
    template_resources,
)
from dragonfly_executor.backends.kubernetes.resources import GPU, RESOURCES, PodSizes, check_texts
from dragonfly_executor.backends.label import node_name
from dragonfly_executor.errors import BootError
from dragonfly_executor.sync.options import Sync
from dragonfly_executor.util.validation import duration, whole

if TYPE_CHECKING:
    from typing import Unpack

    from dragonfly_executor.backends.backend_check import BackendCheck
    from dragonfly_executor.backends.found_node import FoundNode, SweepResult
    from dragonfly_executor.backends.kubernetes.node import KubernetesNode
    from dragonfly_executor.backends.tier_keywords import TierKeywords
    from dragonfly_executor.core.capacity import Capacity
    from dragonfly_executor.util.validation import Seconds

NO_IMAGE = "none"
"""The image of a backend that was made from texts without one, which only lists and sweeps."""
SWEEP_TIMEOUT = 60.0
FIRST_SWEEP_TIMEOUT = 10.0
"""Seconds for the sweep beside the first boot."""
INFINITY = float("inf")
DAY = 24 * 3600.0
SETTINGS = frozenset({
    "image", "namespace", "kubeconfig", "context", "service_account", "python", "host", "bind", "sync", "gpu_resource",
    "port", "boot_timeout", "queue_timeout", "max_lifetime", "failsafe", "labels", "keep_entrypoint",
})  # fmt: skip
"""The arguments that a text of this name sets. A text of any other name is the amount of a resource."""


class KubernetesBackend(Backend):
    """Boots runners as Pods of a Kubernetes cluster, one Pod per runner.

    Pods must reach this program over the network: a runner dials back to it. In a Pod of the same cluster that works
    without settings. A Pod that waits for a node is not late: `boot_timeout` counts from when the Pod is scheduled.

    No Pod goes on without this program: a runner exits when its parent is gone, and Kubernetes does not restart it. If
    this program runs in a Pod of the same namespace, that Pod owns the runners' Pods, and the cluster deletes them
    with it.

    Args:
        image: the image of the runners. It must contain Python and dragonfly_executor in this program's versions.
        namespace: of the Pods; default: that of this Pod, or of the kubeconfig's context.
        resources: what a Pod asks for, such as ``{"cpu": 2, "memory": "4Gi", "nvidia.com/gpu": 1}``. These are
            requests, and limits for all but the CPU. Or ``{"requests": {...}, "limits": {...}}``. Default: 1 CPU and
            1 GiB. A runner takes as many calls at once as it has CPUs. If calls require more
            (``options(requires=...)``), their Pods ask for that.
        max_resources: the most that calls may require, such as ``{"cpu": 16, "memory": "64Gi", "nvidia.com/gpu": 4}``.
            Calls that require more fail when they are submitted. Default: no bound, so such a Pod waits for a node.
        gpu_resource: the name of the resource that is a GPU, such as ``"amd.com/gpu"``.
        labels: free labels of the runners, as a mapping to the labels that a node must have for it:
            ``{"eu": {"topology.kubernetes.io/region": "eu-west-1"}}``. A Pod for calls that require "eu" then has this
            node selector. All runners have a label with an empty mapping, and so have those of a plain list.
        node_selector: labels that the node must have.
        tolerations: taints of nodes that the Pods tolerate, as in a Pod's manifest.
        service_account: the account of the Pods, whose token calls then find. Default: no token.
        pod_template: more settings of Pods, as a ``PodTemplateSpec``: volumes, security contexts, affinity, sidecars.
            The runner's container is the one with the name "runner". If that has a ``command``, the command gets the
            runner's command as its arguments.
        keep_entrypoint: run the image's ENTRYPOINT, which must run its arguments (``exec "$@"``). By default the
            runner's command replaces it.
        env: environment variables for the runners. Everyone who may read Pods can read them.
        python: the interpreter in the image.
        host: the address of this program that the Pods dial; default: this machine's address on the way to the API
            server, which in a Pod is that of the Pod.
        port: the port to listen on; default: any free port.
        bind: the address to listen on, if it differs from `host`.
        kubeconfig, context: the cluster and the credentials; default: KUBECONFIG, then this Pod's service
            account, then ``~/.kube/config`` with its current context.
        boot_timeout: seconds (or a `timedelta`) from the node to the runner, with the pull of the image, if the pool
            sets no boot timeout.
        queue_timeout: seconds that a Pod may wait for a node. Default: as long as it takes.
        max_lifetime: seconds after which the cluster ends a Pod, even while calls run.
        failsafe: seconds for which a runner tries to reach this program.
        sync: which files of this program are sent to the runners; see `SSHBackend`. None: no files.
        requirements: third-party packages to install in each Pod; see `SSHBackend`. Preferably, put them in the image.
        sweep: whether to delete the Pods of programs that are gone, beside the first boot.
        tier: `max`, `idle_shutdown_after` and `budget` of the runners of this backend; see `Backend.set_limits`.

    Raises:
        ImportError: lightkube is not installed.
        ValueError: there is no cluster, or an argument is invalid.
        TypeError: an argument has the wrong type.
    """

    name = "kubernetes"
    dials_back = True
    expected_boot_time = 20.0
    default_max = None
    default_boot_timeout = 180.0
    phases = ("create", "queue", "start", "connect", "handshake", "sync", "requirements")

    def __init__(
        self,
        image: str,
        *,
        namespace: str | None = None,
        resources: Mapping[str, Any] | None = RESOURCES,
        max_resources: Mapping[str, Any] | None = None,
        gpu_resource: str = GPU,
        labels: Mapping[str, Mapping[str, str]] | Iterable[str] = (),
        node_selector: Mapping[str, str] | None = None,
        tolerations: Iterable[Mapping[str, Any]] | None = None,
        service_account: str | None = None,
        pod_template: Mapping[str, Any] | None = None,
        keep_entrypoint: bool = False,
        env: Mapping[str, str] | None = None,
        python: str = "python3",
        host: str | None = None,
        port: int = 0,
        bind: str | None = None,
        kubeconfig: str | os.PathLike[str] | None = None,
        context: str | None = None,
        boot_timeout: Seconds = 180.0,
        queue_timeout: Seconds | None = None,
        max_lifetime: Seconds = DAY,
        failsafe: Seconds = 20.0,
        sync: Sync | str | Iterable[str | os.PathLike[str]] | None = "auto",
        requirements: Iterable[str] | str | os.PathLike[str] | None = None,
        sweep: bool = True,
        **tier: Unpack[TierKeywords],
    ) -> None:
        self.set_limits(**tier)
        template = check_template(pod_template)
        sizes = PodSizes.check(
            resources or template_resources(template), max_resources, gpu_resource, labels, node_selector
        )
        self._sizes, self.labels = sizes, sizes.own.labels
        self.blueprint = PodBlueprint(
            check_image(image), python, sizes.own.resources, check_texts(env, "env"), sizes.own.node_selector,
            check_tolerations(tolerations), service_account or "",
            duration(max_lifetime, "max_lifetime", positive=True), bool(keep_entrypoint),
            duration(failsafe, "failsafe", positive=True), template, os.urandom(8).hex(),
        )  # fmt: skip
        self.default_boot_timeout = duration(boot_timeout, "boot_timeout", positive=True)
        self._queue_timeout = INFINITY if queue_timeout is None else duration(queue_timeout, "queue_timeout")
        self.sync = Sync.of(sync, requirements)
        self._host, self._bind, self._port = host, bind, whole(port, "port", 0)
        self.advertised_host = host

        def find_access() -> ClusterAccess:
            return ClusterAccess.find(os.environ, kubeconfig=kubeconfig, context=context, namespace=namespace)

        self._cluster = ClusterConnection(find_access, self.blueprint.selector)
        self._sweeps = BackgroundSweeper(self._sweep, backend="kubernetes", noun="Pod", wanted=bool(sweep))

    @classmethod
    def from_text(cls, **settings: str) -> KubernetesBackend:
        """Make a backend from texts, as a command line gives them. A name that is no argument is a resource.

        Raises:
            ImportError, TypeError, ValueError: see the class.
        """
        own = {name: text for name, text in {"image": NO_IMAGE, **settings}.items() if name in SETTINGS}
        resources = {name: text for name, text in settings.items() if name not in SETTINGS}
        if "journal" in resources:
            raise ValueError("KubernetesBackend has no journal: the cluster lists all Pods")
        return cls(**arguments_from_text(own, keep_entrypoint=truth), resources={**RESOURCES, **resources})

    def __repr__(self) -> str:
        return f"KubernetesBackend({self.blueprint.image!r}, namespace={self.access.namespace!r})"

    @property
    def access(self) -> ClusterAccess:
        """Return the cluster and the credentials."""
        return self._cluster.access

    def listen_address(self) -> tuple[str, int]:
        """See `Backend.listen_address`."""
        return self._bind or self._host or self._cluster.access.own_address(), self._port

    def default_slots(self) -> int | None:
        """See `Backend.default_slots`."""
        return self._sizes.own.slots()

    def capacities(self) -> Sequence[Capacity]:
        """See `Backend.capacities`. The sizes of the cluster's nodes are unknown here, so `max_resources` counts."""
        return (self._sizes.largest(),)

    def default_placement(self) -> str:
        """See `Backend.default_placement`. A node that has no runner left can be taken away by a cluster autoscaler."""
        return "pack"

    def boot(self, request: BootRequest) -> Node:
        """Create a Pod. Returns while the Pod waits for a node.

        Raises:
            BootError: there is no Pod. The phase is "create". The error is `final` if every retry fails: the
                credentials, a right, the namespace or the manifest is wrong.
        """
        # The timer begins when the Pod has a node.
        request.queued()
        from dragonfly_executor.backends.kubernetes.creation import PodCreation
        from dragonfly_executor.backends.kubernetes.leftovers import owner_annotation

        if self.blueprint.image == NO_IMAGE:
            raise BootError("the image of the runners is not set: give image=", "create", final=True)
        size = self._sizes.choose(request.requires)
        blueprint = self.blueprint._replace(resources=size.resources, node_selector=size.node_selector)
        api, watch, leftovers = self._cluster.clients()
        deadline = Deadline(request.timeout, request.given_up)

        def stopped(node: KubernetesNode, *, is_gone: bool) -> None:
            """Leave a Pod that may still exist to a later sweep."""
            if not is_gone:
                leftovers.release(node)
                self._sweeps.ask()
            self._sweeps.node_left()

        with api:
            owner = self._cluster.find_owner(deadline)
            pool = request.parent.pool
            name = node_name(pool)
            manifest = blueprint.pod(name, pool, owner, owner_annotation(request))
            node = PodCreation(api, watch, blueprint, request).run(name, manifest, deadline, self._queue_timeout)
        node.capacity, node.labels, node.default_slots = size.capacity(), size.labels, size.slots()
        # A boot that was cancelled must not wait for a sweep, so a sweep begins with a boot that has ended well.
        self._sweeps.node_came(FIRST_SWEEP_TIMEOUT)
        node.call_when_stopped(stopped)
        return node

    def checks(self) -> Iterable[BackendCheck]:
        """See `Backend.checks`."""
        from dragonfly_executor.backends.kubernetes.checks import check_cluster

        return check_cluster(self._cluster.clients().api)

    def list_nodes(self) -> Sequence[FoundNode]:
        """See `Backend.list_nodes`."""
        return self._cluster.clients().leftovers.find(Deadline(SWEEP_TIMEOUT))

    def destroy_nodes(self, nodes: Iterable[FoundNode]) -> SweepResult[FoundNode]:
        """See `Backend.destroy_nodes`."""
        return self._cluster.clients().leftovers.destroy(nodes, Deadline(SWEEP_TIMEOUT))

    def _sweep(self, deadline: Deadline) -> SweepResult[FoundNode]:
        return self._cluster.clients().leftovers.sweep(deadline)
