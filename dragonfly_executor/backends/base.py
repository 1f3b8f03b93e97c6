"""What a backend is: it gets a node and a running agent on it, and gives it back. It knows nothing of calls."""

from __future__ import annotations

import logging
import threading
from collections import namedtuple
from collections.abc import Collection, Mapping
from types import MappingProxyType

from dragonfly_executor.protocol.parent import Parent

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from dragonfly_executor.errors import BootError
    from dragonfly_executor.sync import Sync
    from dragonfly_executor.transport.call_start_table import StartTable
    from dragonfly_executor.transport.loop import Loop
else:
    Protocol = object

logger = logging.getLogger("dragonfly_executor")
BOOT_FAILED = {"dragonfly_boot_failed": True}
"""What a log record has, as ``extra``, that says no more than the error of the boot does."""

Buffer = bytes | bytearray | memoryview


class Stream(Protocol):
    """A two-way byte stream, named after `socket.socket`; a paramiko channel is one as well."""

    def recv(self, size: int, /) -> bytes:
        """At least one byte, at most `size`; nothing at the end of the stream. Blocks."""

    def sendall(self, data: bytes, /) -> None:
        """Write everything. Blocks."""

    def close(self) -> None:
        """End the stream in both directions."""


class Signal(threading.Event):
    """An event that can also end, in the moment in which it is set, what a thread blocks in."""

    def __init__(self) -> None:
        super().__init__()
        self._calling = threading.Lock()
        self._ends: list[Callable[[], object]] = []

    def set(self) -> None:
        """Set the event, and call what `call` was given."""
        with self._calling:
            super().set()
            ends, self._ends = self._ends, []
            for end in ends:
                try:
                    end()
                except BaseException:  # a backend may be anybody's, and the engine goes on
                    logger.exception("could not end what blocks over something that is over")

    def call(self, end: Callable[[], object]) -> None:
        """Have this called when the event is set, or at once if it is: say, what shuts a socket down.

        Args:
            end: must not block: a pool's engine runs it.
        """
        with self._calling:
            if not self.is_set():
                self._ends.append(end)
                return
        end()

    def forget(self, end: Callable[[], object]) -> None:
        """It is not called any more, nor still being called when this returns."""
        with self._calling:
            if end in self._ends:
                self._ends.remove(end)


class GivenUp(Signal):
    """Set when nobody wants something any more; whoever blocks over it may have that ended in the same moment."""


class BootClock(Protocol):
    """Hears when a backend asks for a node, and when it waits for its turn to do so; on whatever thread."""

    def queued(self) -> None:
        """The backend waits for its turn."""

    def started(self) -> None:
        """The backend asks for the node."""


_Request = namedtuple(  # noqa: PYI024  # typing is slow to import
    "_Request", "runner_id parent timeout given_up clock dialed_in", defaults=(None, None, None)
)


class BootRequest(_Request):
    """What a backend is told about the runner it shall boot.

    Attributes:
        runner_id: the runner's number in its pool.
        parent: what the runner is to find in its environment, as ``DRAGONFLY_PARENT``. Where it dials back, the token
            in it lets that runner in, once, until `timeout` has passed.
        timeout: seconds that the boot may take, from when the backend asks for the node. The pool then gives it up.
        given_up: a `threading.Event` that the pool sets when it does not want this runner any more. `boot` then returns
            or raises within 2 s, whatever it waits for: it waits on this event, or has `GivenUp.call` end what blocks
            in another way. None if the caller never gives a boot up.
        clock: hears of `queued` and `started`. None if the caller does not measure time.
        dialed_in: set when the runner has dialed back and proved who it is, and `boot` has yet to come back: the node
            exists, whatever became of the platform's answer, and `boot` can return it. None if runners do not dial
            back.
    """

    __slots__ = ()
    runner_id: int
    parent: Parent
    timeout: float
    given_up: GivenUp | None
    clock: BootClock | None
    dialed_in: Signal | None

    def queued(self) -> None:
        """Say that the backend waits for its turn, at a rate limit or in a queue, and that there is no node yet.

        The boot's time and the pool's budget stand still until `started`. A backend that never says so is taken to ask
        for the node as its `boot` is called.
        """
        if self.clock is not None:
            self.clock.queued()

    def started(self) -> None:
        """Say that the backend asks for the node now: after `queued`, the boot's time begins anew."""
        if self.clock is not None:
            self.clock.started()


class Node:
    """A booted node with a running agent on it.

    Attributes:
        stream: the link's bytes; None where the runner dials back to the parent's listener.
        shares_disk: whether the node sees the files of the parent's machine.
        shares_image: whether the node was made of the image that the parent runs in. Its slots then import from the
            entries of the parent's ``sys.path`` that exist there, and start in the parent's working directory if
            nothing is sent to it.
        host: the machine that it is on, as a person would say it; "" for this one.
        slots: calls at once on this node where it has a say in that; it comes before what the pool was given.
        price: US dollars for a second of it, estimated; None where no more is known than what `Backend.price` says.
        sessions: the process sessions of the slots that live there, as the agent has reported them; kept by the pool.
        starts: memory in which its slots mark the calls that they begin; `stop` settles it. None where there is none:
            all calls that a lost runner had may have begun.
        is_silent: whether the pool gives the node back since nothing comes from its runner any more; set before `stop`,
            which then waits for no answer of the runner's: the node keeps its place in ``max`` until `stop` returns.
        facts: what the backend found out on the way, by the phase of the boot in which it did, for people to read.
        renew_every: seconds between two calls of `renew`, while the runner is up; None for none.
        stopper: who tells such a node to go that its pool would keep, and `stop_advice` what gives calls longer then;
            for errors.
    """

    stream: Stream | None = None
    shares_disk: bool = True
    shares_image: bool = False
    host: str = ""
    slots: int | None = None
    price: float | None = None
    sessions: Collection[int] = ()
    starts: StartTable | None = None
    is_silent: bool = False
    facts: Mapping[str, str] = MappingProxyType({})
    renew_every: float | None = None
    stopper: str = "somebody"
    stop_advice: str = ""

    def stop(self) -> None:
        """Give the node back, and leave nothing running on it. Twice is fine, never raises; blocks until it is done."""
        raise NotImplementedError

    def descriptors(self) -> Collection[int]:
        """What a forked child of the parent must not keep open, so that the node learns when the parent is gone."""
        return ()

    def ended(self, wait: float) -> BootError | None:
        """Why the runner that is to dial back never will, once that is known; asked again and again until it has.

        Only where runners dial back, and only if a node overrides it. Blocks for `wait` seconds or somewhat longer, on
        a thread that may, and less when the node is stopped. None if it may still come. Never raises.
        """
        return None

    def renew(self) -> None:
        """Tell the platform that the pool still has this node. Blocks, on a thread that may. Never raises."""

    def output(self) -> str:
        """The last of what the node printed, for the error of a boot that failed; "" where nobody knows."""
        return ""


class Backend:
    """Boots nodes. Subclasses give `boot`; the rest are defaults that they may change.

    Attributes:
        name: the word for it in logs and in `Parent`.
        default_max: runners at most where the user does not say; None where the user has to say it.
        default_boot_timeout: seconds.
        max_concurrent_boots: boots that may be under way at the same time. The pool asks for no more, and calls `boot`
            on as many threads. A boot is under way until its runner is up, or the boot has failed and `boot` has come
            back.
        phases: the steps of a boot, in order, by the names that its `BootError`s give them.
        dials_back: whether the runners connect to the parent, which listens for them. ``Node.stream`` is None then, and
            ``request.parent`` has address, fingerprint and token, for the ``DRAGONFLY_PARENT`` of the node.
        advertised_host, advertised_port: what such runners dial, where it is not what the parent binds.
        sync: what of the parent's files travels to its nodes. A backend whose nodes do not share the parent's disk has
            one, also where nothing is to travel: ``self.sync = Sync(sync, requirements=requirements)`` in its
            constructor is all that it takes. None where all nodes share it.
        shares_image: whether all nodes are made of the image that the parent runs in; see `Node`.
    """

    name: str = "backend"
    default_max: int | None = None
    default_boot_timeout: float = 30.0
    max_concurrent_boots: int = 100
    sync: Sync | None = None
    shares_image: bool = False
    phases: tuple[str, ...] = ("create", "connect", "handshake")
    dials_back: bool = False
    advertised_host: str | None = None
    advertised_port: int | None = None

    def listen_address(self) -> tuple[str, int]:
        """Host and port (0 for any) that the parent binds where runners dial back; the loopback, if not overridden.

        May block.
        """
        return "127.0.0.1", 0

    def default_slots(self) -> int | None:
        """Calls at once on a runner where the user does not say; None for the CPU count that the runner reports."""
        return None

    def price(self) -> float | None:
        """US dollars for a second of a runner, estimated; None where nobody knows. Must not block."""
        return None

    def prices_as_of(self) -> str:
        """When prices were those that `price` goes by, for people to read; "" where it goes by none."""
        return ""

    def make_loop(self) -> Loop:
        """The loop of a pool on this backend. A backend for tests may have one that goes by a clock of its own."""
        from dragonfly_executor.transport.loop import Loop

        return Loop()

    def boot(self, request: BootRequest) -> Node:
        """Boot a node and start an agent on it. Blocks, on one of `max_concurrent_boots` threads.

        If it has to wait for its turn, it says so: `BootRequest.queued`, and `BootRequest.started` when it goes on.
        When ``request.given_up`` is set, it returns or raises within 2 s, and leaves nothing behind.

        Raises:
            BootError: there is no node.
        """
        raise NotImplementedError
