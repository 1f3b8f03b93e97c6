"""Serves the objects of multiprocessing that slots have stand-ins for. The parent has the real ones."""

from __future__ import annotations

import pickle

from dragonfly_executor.engine.objects import pipes, proxies, queues, synchronization, values
from dragonfly_executor.engine.objects.replies import send_reply
from dragonfly_executor.engine.objects.request import LATER, Cancelled, Request, RequestPeer, Session
from dragonfly_executor.engine.objects.semaphores import HeldSemaphores
from dragonfly_executor.errors import MultiprocessingObjectError, ProtocolError
from dragonfly_executor.protocol.frames import MAX_INLINE, POOL, Flag, Frame
from dragonfly_executor.serialization.plain_unpickler import load_plain
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from dragonfly_executor.engine.objects.child_calls import ChildCallServer
    from dragonfly_executor.engine.objects.request import ChildContext, ServedObject
    from dragonfly_executor.engine.worker_threads import WorkerThreadGroups, WorkerThreads
    from dragonfly_executor.serialization.object_registry import ObjectRegistry, ServedEntry

SERVED: dict[str, Any] = {
    **synchronization.SERVED,
    **queues.SERVED,
    **values.SERVED,
    **pipes.SERVED,
    **proxies.SERVED,
}
MAX_WAITING = 1024
"""Maximum number of requests that wait at once, each on a thread of its own. Further ones queue."""
SHORT_THREADS = 4
"""Threads for requests that take some time, but do not wait without end."""
MAX_REQUESTS = 10_000
"""Maximum number of requests of a slot that are not answered: one for each of its threads."""


class ObjectServer:
    """The objects of one pool. It belongs to the engine thread.

    Args:
        registry: the objects.
        groups: makes the threads on which requests wait.
        on_engine: runs a callback on the engine thread. Any thread may call it.
        engine: the pool's, for the calls that calls submit.
    """

    def __init__(
        self,
        registry: ObjectRegistry,
        groups: WorkerThreadGroups,
        on_engine: Callable[[Callable[[], object]], object],
        engine: ChildContext,
    ) -> None:
        self._registry = registry
        self._on_engine = on_engine
        self._engine = engine
        self._max_payload = engine.options.max_payload
        self._children: ChildCallServer | None = None
        self._semaphores = HeldSemaphores()
        self._sessions: dict[tuple[int, int], Session] = {}
        self._is_closed = False
        # Made for the first request that takes time: while the interpreter ends, no thread can be started.
        self._groups = groups
        self._waits: WorkerThreads | None = None
        self._short: WorkerThreads | None = None

    def requested(self, runner: RequestPeer, frame: Frame) -> None:
        """Handle a frame of a slot.

        Raises:
            ProtocolError: it is not a request.
        """
        session = self._sessions.get((runner.id, frame.detail))
        if session is None:
            session = self._sessions[runner.id, frame.detail] = Session(runner, frame.detail)
        data = self._whole(session, frame)
        if data is None:
            return
        try:
            number, thread, method, args = load_plain(bytes(data))
            if (type(number), type(thread), type(method), type(args)) != (int, int, str, tuple):
                raise TypeError(f"unexpected types in {number!r}, {thread!r}, {method!r}")
        except Exception as error:
            raise ProtocolError(f"a request for an object of multiprocessing that cannot be read: {error!r}") from None
        if method == "adopt":
            entry = self._registry.find(number)
            if entry is not None:
                session.adopt(entry)
        elif method == "drop":
            session.drop(number)
        elif number == POOL:
            self._child_calls().requested(session, frame.call_id, method, args)
        elif method == "cancel":
            if (pending := session.requests.get(number)) is not None:
                pending.is_cancelled = True
        else:
            self._begin(number, Request(session, frame.call_id, thread, method, args))

    def _whole(self, session: Session, frame: Frame) -> memoryview | bytearray | None:
        """Return a whole request; None if parts of it are missing."""
        if not frame.flags & Flag.LARGE:
            return frame.payload
        number, data = session.long or (frame.call_id, bytearray())
        data += frame.payload
        if number != frame.call_id or len(data) > self._max_payload + MAX_INLINE:
            raise ProtocolError(f"a request of {len(data)} bytes or more for an object of multiprocessing")
        is_last = not frame.flags & Flag.MORE
        session.long = None if is_last else (number, data)
        return data if is_last else None

    def _begin(self, number: int, request: Request) -> None:
        session = request.session
        entry = session.entries.get(number)
        if entry is None:
            self._answer(request, None, MultiprocessingObjectError("the parent does not have this object any more"))
            return
        if len(session.requests) >= MAX_REQUESTS:
            raise ProtocolError(f"{MAX_REQUESTS} requests of one slot for objects of multiprocessing")
        served = self._served(entry)
        if request.method not in served.METHODS:
            raise ProtocolError(f"a request for {request.method!r} of a {entry.kind}")
        if request.number:
            session.requests[request.number] = request
        value, error = _outcome(served.now, request)
        if value is LATER:
            group = self._waiting() if request.method in served.WAITING else self._quick()
            group.run(self._run, served, request)
        else:
            self._answer(request, value, error)

    def _waiting(self) -> WorkerThreads:
        """Return the threads for requests that may wait without end."""
        if self._waits is None:
            self._waits = self._groups.make("objects", MAX_WAITING)
        return self._waits

    def _quick(self) -> WorkerThreads:
        """Return the threads for requests that take some time."""
        if self._short is None:
            self._short = self._groups.make("locks", SHORT_THREADS)
        return self._short

    def _served(self, entry: ServedEntry) -> ServedObject:
        if entry.served is None:
            entry.served = SERVED[entry.kind](entry.value, self._semaphores, self._check)
        return entry.served  # type: ignore[no-any-return]

    def _check(self) -> None:
        """Raise `Cancelled` at the end of the pool. Called on all threads."""
        if self._is_closed:
            raise Cancelled

    def _run(self, served: ServedObject, request: Request) -> None:
        """Carry out a request that takes time, on a thread of its own."""
        value, error = _outcome(served.run, request)
        self._on_engine(lambda: self._answer(request, value, error))

    def _answer(self, request: Request, value: Any, error: BaseException | None) -> None:
        session = request.session
        session.requests.pop(request.number, None)
        if session.is_gone or not request.number:
            return
        if isinstance(error, Cancelled):
            error = MultiprocessingObjectError("the wait was given up")
        try:
            data = pickle.dumps(value if error is None else error, 5)
        except Exception as unpicklable:  # the error is of the user's own type
            error = MultiprocessingObjectError(f"{type(error).__name__}: {error} ({unpicklable})")
            data = pickle.dumps(error, 5)
        send_reply(session, request.number, data, is_error=error is not None)

    def _child_calls(self) -> ChildCallServer:
        if self._children is None:
            # Imported for the first call that submits a call.
            from dragonfly_executor.engine.objects.child_calls import ChildCallServer

            self._children = ChildCallServer(self._engine, self._on_engine)
        return self._children

    def slot_is_down(self, runner: int, pid: int) -> None:
        """Let go of what a slot held that has ended."""
        session = self._sessions.pop((runner, pid), None)
        if session is not None:
            self._end((session,))

    def runner_is_gone(self, runner: int) -> None:
        """Let go of what the slots of a runner held that was lost, or has ended."""
        gone = [key for key in self._sessions if key[0] == runner]
        self._end([self._sessions.pop(key) for key in gone])

    def close(self) -> None:
        """End all waits, and let go of everything."""
        self._is_closed = True
        self._end(list(self._sessions.values()))
        self._sessions.clear()

    def _end(self, sessions: Iterable[Session]) -> None:
        for session in sessions:
            session.is_gone = True
            for held in list(session.held):
                held.slot_is_gone(session)
            session.entries.clear()
            session.requests.clear()
            for child in list(session.children.values()):
                if not child.is_detached:
                    child.cancel()


def _outcome(method: Callable[[Request], Any], request: Request) -> tuple[Any, BaseException | None]:
    """Return the value of a method, or its exception."""
    try:
        return method(request), None
    except (Exception, Cancelled) as error:
        # Its frames hold the object, and themselves: a pipe would be closed only by the garbage collector.
        error.__context__ = error.__cause__ = None
        return None, error.with_traceback(None)
