"""A slot's requests to the parent: method calls on multiprocessing's objects, which the parent has, and on its pool."""

from __future__ import annotations

import os
import weakref
from _thread import allocate_lock, get_ident
from collections import deque
from itertools import count

from dragonfly_executor.errors.base import FrameTooLargeError, MultiprocessingObjectError
from dragonfly_executor.protocol.frames import CHUNK_SIZE, HEADER, MAX_INLINE, Flag, Frame, Kind, encode
from dragonfly_executor.runner.reply_reader import ReplyReader, ReplyTarget
from dragonfly_executor.runner.stand_ins import STAND_INS
from dragonfly_executor.util import plain_pickle as pickle
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dragonfly_executor.runner.agent_stream import AgentStream
    from dragonfly_executor.runner.stand_ins import StandIn


_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, tuple, list, dict})


def plain(value: Any) -> Any:
    """Return an argument as a value of a built-in type: the parent opens no others. NumPy's numbers are such arguments.

    Raises:
        TypeError: it is no number.
    """
    if type(value) in _PLAIN:
        return [plain(each) for each in value] if type(value) is list else value
    base: Any
    for base in (str, bytes, float):
        if isinstance(value, base):
            return base(value)
    if hasattr(type(value), "__index__"):
        return int(value)
    if hasattr(type(value), "__float__"):
        return float(value)
    raise TypeError(f"an object of multiprocessing does not take {type(value).__name__!r} objects")


class ReplyWaiter(ReplyTarget):
    """A thread that waits for a reply."""

    __slots__ = ("lock", "request")

    def __init__(self, request: tuple[StandIn, str]) -> None:
        super().__init__()
        self.lock = allocate_lock()
        self.lock.acquire()
        self.request = request
        """The stand-in, which the parent serves at least until the reply has come, and the method."""

    def wake(self) -> None:
        """Go on: the reply is complete."""
        self.lock.release()


class ObjectClient:
    """Sends requests, and hands replies to the threads that wait for them.

    Args:
        agent: the stream to the agent.
        max_payload: maximum size of a request in bytes.
        slot: the number of the slot in requests; None for the process id. A fake runner's slots are threads.
        read: has a callback called with each reply.

    Attributes:
        on_call_end: called when a call ends, before its result is sent; None if there is nothing to do then.
    """

    def __init__(
        self,
        agent: AgentStream,
        max_payload: int,
        slot: int | None = None,
        read: Callable[[AgentStream, Callable[[Frame], object]], object] = ReplyReader,
    ) -> None:
        self._agent = agent
        self._max_payload = max_payload
        self._pid = os.getpid()
        self._slot = self._pid if slot is None else slot
        self._numbers = count(1)
        self.on_call_end: Callable[[], object] | None = None
        self._waiting: dict[int, ReplyTarget] = {}
        self._given_up: dict[int, ReplyWaiter] = {}
        self._listeners: dict[int, Callable[[Frame], object]] = {}
        self._stand_ins: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._dropped: deque[tuple[int, str]] = deque()
        self._long = allocate_lock()
        """Held while a long request is sent: the parent takes one after another."""
        read(agent, self._on_reply)

    def stand_in(self, kind: str, number: int, detail: Any) -> Any:
        """Return the stand-in of an object. While one exists, it is the same. Of some kinds it is the object itself."""
        self.flush()
        found: Any = self._stand_ins.get(number)
        if found is None:
            make: Callable[..., Any]
            if kind in STAND_INS:
                make = STAND_INS[kind]
            else:
                # Imported for the first of these kinds.
                from dragonfly_executor.runner.value_stand_ins import VALUE_STAND_INS

                make = VALUE_STAND_INS[kind]
            found = make(self, number, detail)
            if kind != "SharedMemory":
                # A call may close the block itself, which is no stand-in.
                self._stand_ins[number] = found
        return found

    def drop(self, number: int, method: str = "drop") -> None:
        """Note that a stand-in is gone, or with "cancel" a request. A finalizer calls this, at any point."""
        self._dropped.append((number, method))

    def flush(self) -> None:
        """Tell the parent what is gone."""
        while self._dropped:
            self.tell(*self._dropped.popleft())

    def tell(self, number: int, method: str, *args: Any) -> None:
        """Send a request that has no reply."""
        if os.getpid() == self._pid:
            self._send(0, number, method, args)

    def end_call(self) -> None:
        """Tell the parent what has changed during the call that ends now."""
        self.flush()
        if self.on_call_end is not None:
            self.on_call_end()

    def begin(self, waiter: ReplyTarget, number: int, method: str, *args: Any) -> int:
        """Send a request whose reply goes to `waiter`, and return the number of the request.

        Raises:
            RuntimeError: this is a forked child of the slot.
            FrameTooLargeError: the arguments are larger than ``max_payload``.
        """
        if os.getpid() != self._pid:
            raise RuntimeError(
                "this process was started by a call: only the process of the call itself can submit calls"
            )
        token = next(self._numbers)
        self._waiting[token] = waiter
        try:
            self._send(token, number, method, args)
        except BaseException:
            self._waiting.pop(token, None)
            raise
        return token

    def forget(self, token: int) -> bool:
        """Drop the reply to a request of `begin`. Returns False if it has come."""
        return self._waiting.pop(token, None) is not None

    def listen(self, callback: Callable[[Frame], object]) -> int:
        """Call `callback`, on the reading thread, with each answer to a number, and return the number."""
        token = next(self._numbers)
        self._listeners[token] = callback
        return token

    def stop_listening(self, token: int) -> None:
        """Drop further answers to a number of `listen`."""
        self._listeners.pop(token, None)

    def call(self, stand_in: StandIn, method: str, *args: Any) -> Any:
        """Call a method of the real object.

        Args:
            stand_in: stands for the object.
            method: the method's name.
            args: values of built-in types.

        Raises:
            MultiprocessingObjectError: this is a forked child of the slot, or the object is gone.
            FrameTooLargeError: the arguments are larger than ``max_payload``.
            Exception: the method's own.
        """
        if os.getpid() != self._pid:
            raise MultiprocessingObjectError(
                "this process was started by a call: the stand-ins of multiprocessing's objects work only in the "
                "process of the call itself"
            )
        token, waiter = next(self._numbers), ReplyWaiter((stand_in, method))
        self._waiting[token] = waiter
        try:
            self._send(token, stand_in.number, method, tuple(map(plain, args)))
            waiter.lock.acquire()
        except BaseException:
            if method == "wait" and token in self._waiting:
                # The wait in a condition ends with its lock, so this thread goes on only then.
                self.tell(token, "cancel")
                waiter.lock.acquire()
            else:
                self._give_up(token, waiter)
            raise
        value = pickle.loads(waiter.data or b"")
        if waiter.is_error:
            raise value
        return value

    def _send(self, token: int, number: int, method: str, args: tuple[Any, ...]) -> None:
        data = pickle.dumps((number, get_ident(), method, args), 5)
        if len(data) <= MAX_INLINE:
            self._agent.send(encode(Kind.OBJECT_REQUEST, token, data, detail=self._slot))
            return
        if len(data) > self._max_payload:
            raise FrameTooLargeError(f"the arguments take {len(data)} bytes, more than max_payload={self._max_payload}")
        view = memoryview(data)
        with self._long:
            for start in range(0, len(data), CHUNK_SIZE):
                piece = view[start : start + CHUNK_SIZE]
                more = Flag.MORE if start + CHUNK_SIZE < len(data) else 0
                header = HEADER.pack(Kind.OBJECT_REQUEST, Flag.LARGE | more, 0, self._slot, token, len(piece))
                self._agent.send_chunk(header, piece)

    def _give_up(self, token: int, waiter: ReplyWaiter) -> None:
        """Take a request back: a signal handler has raised in the thread that waits for it."""
        self._given_up[token] = waiter
        if self._waiting.pop(token, None) is None:
            # The reply came just now.
            self._given_up.pop(token, None)
            self._undo(waiter)
        else:
            self.tell(token, "cancel")

    def _undo(self, waiter: ReplyWaiter) -> None:
        """Undo what a request did that was given up."""
        if waiter.is_error or waiter.data is None:
            return
        stand_in, method = waiter.request
        value = pickle.loads(waiter.data)
        if method == "acquire" and value:
            self.tell(stand_in.number, "release")
        elif method == "get":
            self.tell(stand_in.number, "put", value, False, None)

    def _on_reply(self, frame: Frame) -> None:
        """Hand a reply to its thread. On the thread of the `ReplyReader`."""
        token = frame.call_id
        listener = self._listeners.get(token)
        if listener is not None:
            listener(frame)
            return
        waiter: ReplyTarget | None = self._waiting.get(token) or self._given_up.get(token)
        if waiter is None:
            return
        waiter.arrived += frame.payload
        if frame.flags & Flag.MORE:
            return
        waiter.is_error = frame.flags & Flag.ERROR != 0
        waiter.data = bytes(waiter.arrived)
        if self._waiting.pop(token, None) is not None:
            waiter.wake()
        elif (given_up := self._given_up.pop(token, None)) is not None:
            self._undo(given_up)
