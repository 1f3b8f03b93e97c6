"""The requests of slots for multiprocessing's objects."""

from __future__ import annotations

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, TypeAlias

    from dragonfly_executor.core.calls import Call
    from dragonfly_executor.engine.options import PoolOptions
    from dragonfly_executor.engine.payload_store import PayloadStore
    from dragonfly_executor.serialization.object_registry import ServedEntry

    class Child(Protocol):
        """A call that a call of the slot has submitted."""

        is_detached: bool

        def cancel(self) -> None:
            """Stop the call: nothing waits for it any more."""

    class Held(Protocol):
        """A semaphore, or connections, that threads of slots hold."""

        def slot_is_gone(self, session: Session) -> None:
            """Release what the slot held."""

    class ChildContext(Protocol):
        """An engine as the calls that calls submit use it. It belongs to the engine thread."""

        options: PoolOptions
        ids: Iterator[int]
        payloads: PayloadStore

        def handle(self, event: Any) -> None:
            """Hand the core an event, and carry out the actions."""

        def cancel(self, calls: Sequence[Call]) -> None:
            """Stop calls."""

    Owner: TypeAlias = "tuple[Session, int]"

LATER = object()
"""A result of `ServedObject.now`: the request must wait, or takes time."""


class Cancelled(BaseException):
    """The wait of a request is over, because its slot has ended or has given the request up."""


class RequestPeer(Protocol):
    """The link of the runner that a request came from."""

    id: int

    def call(self, call_id: int) -> Call | None:
        """Return a call that is on this runner."""
        ...

    def reply(self, frame: bytes) -> None:
        """Send an answer to a request of the runner."""

    def say_bulk(self, header: bytes, piece: bytes = b"") -> None:
        """Send a frame behind the large payloads."""


class Session:
    """One slot, as long as it lives.

    Attributes:
        runner, pid: the slot.
        entries: the objects for which the slot has a stand-in, by number.
        requests: its requests that are not answered, by number.
        long: the number of the long request that is arriving, and its parts.
        held: what its threads hold: semaphores, and connections to managers.
        children: the calls that it has submitted and that are not settled, by the number of the request.
        is_gone: whether the slot has ended. Set by the engine thread, read by all.
    """

    def __init__(self, runner: RequestPeer, pid: int) -> None:
        self.runner = runner
        self.pid = pid
        self.entries: dict[int, ServedEntry] = {}
        self.requests: dict[int, Request] = {}
        self.long: tuple[int, bytearray] | None = None
        self.held: set[Held] = set()
        self.children: dict[int, Child] = {}
        self.is_gone = False
        self._stand_ins: dict[int, int] = {}
        """The number of stand-ins of each object in the slot: a new one may be made before the end of one is told."""

    def check(self) -> None:
        """Raise `Cancelled` if the slot has ended."""
        if self.is_gone:
            raise Cancelled

    def adopt(self, entry: ServedEntry) -> None:
        """Note a stand-in."""
        self.entries[entry.number] = entry
        self._stand_ins[entry.number] = self._stand_ins.get(entry.number, 0) + 1

    def drop(self, number: int) -> None:
        """Note that a stand-in is gone."""
        left = self._stand_ins.pop(number, 0) - 1
        if left > 0:
            self._stand_ins[number] = left
        else:
            self.entries.pop(number, None)


class Request:
    """One method call of a slot.

    Attributes:
        session: the slot.
        number: the request's number; 0 if the slot expects no reply.
        owner: the thread that sent it.
        method, args: the call. The arguments are values of built-in types, and unchecked.
        is_cancelled: whether the slot has given it up.
    """

    def __init__(self, session: Session, number: int, thread: int, method: str, args: tuple[Any, ...]) -> None:
        self.session = session
        self.number = number
        self.owner: Owner = (session, thread)
        self.method = method
        self.args = args
        self.is_cancelled = False

    def check(self) -> None:
        """Raise `Cancelled` if nothing waits for the outcome any more."""
        if self.is_cancelled or self.session.is_gone:
            raise Cancelled


class ServedObject:
    """Serves one object. Each kind has a subclass.

    Attributes:
        METHODS: the methods that slots may call.
        WAITING: those of them that may wait without end.
    """

    METHODS: frozenset[str] = frozenset()
    WAITING: frozenset[str] = frozenset()

    def now(self, request: Request) -> Any:
        """Carry the request out on the engine thread, if that takes no time; if not, return `LATER`."""
        return LATER

    def run(self, request: Request) -> Any:
        """Carry the request out on a thread of its own.

        Raises:
            Cancelled: nothing waits for the outcome any more.
            Exception: the method's own.
        """
        raise NotImplementedError
