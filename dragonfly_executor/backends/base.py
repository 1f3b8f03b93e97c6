"""The backend interface: `Backend` boots a node with an agent on it, and `Node` stops it. Backends know no calls."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from dragonfly_executor.backends.boot_request import BootClock, BootRequest, CancelToken, Signal
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing import Unpack

    from dragonfly_executor.backends.backend_check import BackendCheck
    from dragonfly_executor.backends.budget import Budget
    from dragonfly_executor.backends.found_node import FoundNode, SweepResult
    from dragonfly_executor.backends.tier_keywords import TierKeywords
    from dragonfly_executor.core.capacity import Capacity
    from dragonfly_executor.errors import BootError
    from dragonfly_executor.protocol.parent import Parent
    from dragonfly_executor.sync import Sync
    from dragonfly_executor.transport.call_start_table import CallStartTable
    from dragonfly_executor.transport.loop import Loop
    from dragonfly_executor.transport.sockets import Socket

__all__ = ["BOOT_FAILED", "Backend", "BootClock", "BootRequest", "Buffer", "CancelToken", "Node", "Signal", "Stream"]

logger = logging.getLogger("dragonfly_executor")
BOOT_FAILED = {"dragonfly_boot_failed": True}
"""``extra`` for log records that only repeat the boot's error."""

Buffer = bytes | bytearray | memoryview


class Stream(Protocol):
    """A two-way byte stream with the method names of `socket.socket`. A paramiko channel fits as well."""

    def recv(self, size: int, /) -> bytes:
        """Return 1 to `size` bytes, or ``b""`` at the end of the stream. Blocks."""
        ...

    def sendall(self, data: bytes, /) -> None:
        """Send all of `data`. Blocks."""

    def close(self) -> None:
        """Close the stream in both directions."""


class Node:
    """A booted node with a running agent on it.

    Attributes:
        stream: the byte stream of the link. None if the runner dials back to the parent's listener.
        shares_disk: whether the node sees the files of the parent's machine.
        shares_image: whether the node runs the same image as the parent. If so, its slots import from those entries of
            the parent's ``sys.path`` that exist on the node. They start in the parent's working directory if nothing is
            synced.
        is_queued: whether the node waits in a queue of the platform until it starts. Only for backends whose runners
            dial back: `boot` calls `BootRequest.queued` and returns such a node at once, and the node calls
            `BootRequest.started` when it starts. So no thread waits for hours.
        host: the name of the node's machine, for people to read; "" for the parent's own machine.
        slots: the number of slots, if the node decides it. It overrides the pool's setting. None if the node does not.
        default_slots: the number of slots if the user gives none, for a backend whose nodes differ. None if only
            `Backend.default_slots` is known.
        capacity: what the runner on the node has, if the node says it: CPUs, GPUs, memory and labels. None if the agent
            is to find it out.
        labels: free labels of the node, in addition to the backend's.
        price: estimated US dollars per second of this node. None if only `Backend.price` is known.
        sessions: process session ids of the slots on the node, as the agent reported them. The pool updates this.
        memory: the socket at which slots connect to share memory with the parent. None if they cannot.
        starts: shared memory in which the slots mark each call that they begin; `stop` settles it. None if there is
            none: then every call of a lost runner may have begun.
        is_silent: whether the pool stops the node because its runner has sent nothing for too long. The pool sets this
            before it calls `stop`, and `stop` then does not wait for an answer of the runner. The node counts toward
            ``max`` until `stop` returns.
        facts: findings of the boot by boot phase, for people to read.
        renew_every: seconds between two calls of `renew` while the runner is up. None if `renew` is not needed.
        lifetime: seconds until the platform ends the node, counted from when its runner is up. The pool reads it then.
            None if it is not known. If it is known later, or changes, see `BootRequest.ending`.
        ended_by: who ends the node after `lifetime`, and why, as a clause for the error of its calls.
        stopper: the party, apart from the pool, that may stop such a node. Errors name it.
        stop_advice: how to give calls more time after such a stop. Errors quote it.
    """

    stream: Stream | None = None
    shares_disk: bool = True
    shares_image: bool = False
    is_queued: bool = False
    host: str = ""
    slots: int | None = None
    default_slots: int | None = None
    capacity: Capacity | None = None
    labels: Collection[str] = ()
    price: float | None = None
    sessions: Collection[int] = ()
    starts: CallStartTable | None = None
    memory: Socket | None = None
    is_silent: bool = False
    facts: Mapping[str, str] = MappingProxyType({})
    renew_every: float | None = None
    lifetime: float | None = None
    ended_by: str = "its platform ended it"
    stopper: str = "another program"
    stop_advice: str = ""

    def stop(self) -> None:
        """Stop the node and leave no process on it. May be called twice. Blocks until done. Never raises."""
        raise NotImplementedError

    def descriptors(self) -> Collection[int]:
        """Return the file descriptors that a forked child of the parent must close.

        If a child keeps one open, the node does not notice when the parent exits.
        """
        return ()

    def ended(self, wait: float) -> BootError | None:
        """Return the error of a runner that will never dial back, or None if it may still do so.

        The pool calls this again and again until the runner has dialed back, and only if a subclass overrides it. So a
        node that waits in a queue looks here whether it has started.
        Blocks for `wait` seconds or slightly longer, on a thread made for that; returns earlier if the node is stopped.
        Never raises.
        """
        return None

    def progress(self) -> str:
        """Return how a node that waits in a queue stands, for people to read; "" if that is unknown.

        For instance "job 17 is PENDING (Resources)". Must not block, on any thread: return what `ended` saw last.
        """
        return ""

    def renew(self) -> None:
        """Tell the platform that the pool still uses this node. Blocks, on a thread made for that. Never raises."""

    def output(self) -> str:
        """Return the last output of the node, for the error of a failed boot; "" if it is unknown."""
        return ""

    def explain_loss(self) -> str:
        """Return why the platform has ended the node of a runner that was lost, as a sentence; "" if it does not say.

        Errors of lost calls quote it. The pool calls this once, before `stop`, and only if a subclass overrides it.
        Blocks for some seconds at most, on a thread made for that. Never raises.
        """
        return ""


class Backend:
    """Boots nodes. Subclasses implement `boot` and may override the other defaults.

    Attributes:
        name: the backend's name in logs and in `Parent`.
        default_max: the pool's `max` if the user gives none. None if the user must give it.
        default_boot_timeout: seconds.
        expected_boot_time: seconds that a boot usually takes. A pool with several backends uses it until it has seen a
            boot of this one.
        max_concurrent_boots: the number of boots that may run at once, and of threads on which the pool calls `boot`. A
            boot runs until its runner is up, or until the boot has failed and `boot` has returned.
        max_boots_per_request: the number of nodes that one call of `boot_many` may ask for. 1 if the platform creates
            nodes one by one: then the pool calls `boot` for each. The pool reads it before each request.
        phases: the phases of a boot, in order. A `BootError` names one of them.
        dials_back: whether runners connect to the parent, which listens for them. If so, ``Node.stream`` is None, and
            ``request.parent`` has the address, fingerprint and token for the node's ``DRAGONFLY_PARENT``.
        advertised_host, advertised_port: the address that runners dial, if it differs from the address that the parent
            binds.
        sync: which files of the parent are sent to the nodes. None if all nodes share the parent's disk. Any other
            backend
            needs one, even if nothing is to be sent: ``self.sync = Sync(sync, requirements=requirements)`` in its
            constructor is enough.
        shares_image: whether all nodes run the same image as the parent; see `Node`.
        shares_memory: whether slots share memory with the parent; see `shared_memory_limit`.
        has_slot_processes: whether calls run in slots of real runners, and not in a fake.
        labels: free labels of all nodes.
        max, idle_shutdown_after, budget: limits that the user has set for the runners of this backend; see
            `set_limits`. None if the user has not.
        slots: number of slots of a runner, if the user has set it for this backend. The pool's `max_concurrency` wins.
    """

    name: str = "backend"
    default_max: int | None = None
    default_boot_timeout: float = 30.0
    expected_boot_time: float = 10.0
    max_concurrent_boots: int = 100
    max_boots_per_request: int = 1
    sync: Sync | None = None
    shares_image: bool = False
    shares_memory: bool = False
    has_slot_processes: bool = True
    labels: frozenset[str] = frozenset()
    phases: tuple[str, ...] = ("create", "connect", "handshake")
    dials_back: bool = False
    advertised_host: str | None = None
    advertised_port: int | None = None
    max: int | None = None
    idle_shutdown_after: float | None = None
    budget: Budget | None = None
    slots: int | None = None

    def set_limits(self, **limits: Unpack[TierKeywords]) -> None:
        """Set limits for the runners of this backend in each pool. Constructors call this with their ``**limits``.

        Args:
            max: maximum number of runners, including booting ones. If the pool has a `max` too, both hold.
            idle_shutdown_after: idle time after which a runner stops; infinity for never. In a pool with this backend
                alone, the pool's own option wins. Among several backends, this value wins.
            budget: a `Budget`. If the pool has one too, both hold.

        Raises:
            TypeError: a value has the wrong type, or there is no such limit.
            ValueError: a value is out of range.
        """
        if limits:
            from dragonfly_executor.backends.tier_limits import checked_limits

            vars(self).update(checked_limits(type(self).__name__, limits))

    def listen_address(self) -> tuple[str, int]:
        """Return the host and port to listen on for runners that dial back. Port 0 takes any free port.

        The default is the loopback with port 0. May block.
        """
        return "127.0.0.1", 0

    def default_slots(self) -> int | None:
        """Return the number of slots per runner if the user gives none. None means the runner's CPU count."""
        return None

    def shared_memory_limit(self) -> int:
        """Return the most bytes of memory that a pool shares with the slots on nodes of this backend."""
        return 0

    def capacities(self) -> Sequence[Capacity]:
        """Return what runners of this backend can have, one item for each sort of runner; empty if that is unknown.

        A call that requires more than each of these is refused when it is submitted. Must not block.
        """
        return ()

    def default_placement(self) -> str:
        """Return the pool's `placement` if the user gives none: "spread", or "pack" if a runner has a price.

        A backend whose runners are scarce for another reason, such as a queue, overrides it.
        """
        return "spread" if self.price() is None else "pack"

    def price(self) -> float | None:
        """Return the estimated US dollars per second of a runner; None if unknown. Must not block."""
        return None

    def prices_as_of(self) -> str:
        """Return the date of the prices behind `price`, for people to read; "" if there are none."""
        return ""

    def make_loop(self) -> Loop:
        """Make the event loop of a pool on this backend. A backend for tests may return a loop with a virtual clock."""
        from dragonfly_executor.transport.loop import Loop

        return Loop()

    def launch_ahead(self, parent: Parent) -> Node | None:
        """Start the node of a pool's first runner before the pool asks for it, or return None. Never raises.

        A pool calls this at its first submit, and loads its engine while the runner starts. The pool's first boot gets
        the node in place of a call of `boot`, or the pool stops the node. Only for nodes that start and stop within
        milliseconds.

        Args:
            parent: as `BootRequest.parent`.
        """
        return None

    def boot(self, request: BootRequest) -> Node:
        """Boot a node and start an agent on it. Blocks, on one of `max_concurrent_boots` threads.

        If `boot` waits for its turn, it calls `BootRequest.queued` first and `BootRequest.started` when it goes on. If
        the node itself waits for hours, `boot` may return it before it starts: see `Node.is_queued`.
        When ``request.given_up`` is set, `boot` returns or raises within 2 s and leaves nothing behind.

        Raises:
            BootError: the boot failed and there is no node.
        """
        raise NotImplementedError

    def boot_many(self, requests: Sequence[BootRequest]) -> Iterator[tuple[BootRequest, Node | BootError]]:
        """Boot several nodes with one request to the platform, such as a job array. Blocks, on one thread for all.

        The pool calls it if `max_boots_per_request` is above 1 and several boots begin at once that require the same.
        Each boot keeps its own token, deadline, `BootRequest.given_up` and outcome. So a part of the boots may fail, or
        be given up, while the others go on. `boot_request.when_all_given_up` returns a token for the request that all
        of them share: it must end within 2 s once all of them are given up. If one of them is given up before its
        node exists, the pool stops that node as soon as it is yielded.

        Args:
            requests: at least two, and at most `max_boots_per_request`.

        Yields:
            Each request once, as soon as its outcome is known, in any order: its node, or the error of its boot.

        Raises:
            BootError: all boots whose outcome was not yielded have failed, and have no node.
        """
        from dragonfly_executor.errors import BootError

        for request in requests:
            try:
                outcome: Node | BootError = self.boot(request)
            except BootError as error:
                outcome = error
            yield request, outcome

    def checks(self) -> Iterable[BackendCheck]:
        """Return the results of checks that need no runner, for ``dragonfly doctor``. Blocks. Never raises.

        If one fails, the doctor boots no runner. A generator makes each check when its result is asked for.
        """
        return ()

    # -- nodes whose pool is gone: the defaults are for backends whose nodes always end with their pool ----------------

    def list_nodes(self) -> Sequence[FoundNode]:
        """Return all nodes that pools of any process have booted on this platform, each with its owner. Blocks.

        A backend whose nodes may outlive their pool, or cost money after it, implements this method and
        `destroy_nodes`. It labels each node with its owner (`backends.label.OwnerLabel`), and journals a boot before it
        asks for the node (`backends.journal.Journal`). `backends.leftovers.Leftovers` then finds the nodes.

        Raises:
            DragonflyError: the platform cannot list its nodes.
        """
        return ()

    def destroy_nodes(self, nodes: Iterable[FoundNode]) -> SweepResult[FoundNode]:
        """Destroy nodes of `list_nodes`, even if their owners are alive. Blocks. Nodes that do not exist are skipped.

        Returns:
            The nodes that are gone now, and those that may still exist.
        """
        from dragonfly_executor.backends.found_node import SweepResult

        return SweepResult([], [])

    def sweep(self) -> SweepResult[FoundNode]:
        """Destroy the orphans among the nodes: those whose owner is gone, or has released them. Blocks.

        A node whose owner is alive is never destroyed. Nor is one whose owner cannot be checked from this machine,
        unless its claim has ended.

        Returns:
            The orphans that are gone now, and those that may still exist.

        Raises:
            DragonflyError: the platform cannot list its nodes.
        """
        return self.destroy_nodes([node for node in self.list_nodes() if node.is_orphan])
