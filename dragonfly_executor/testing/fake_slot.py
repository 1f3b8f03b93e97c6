"""The slot of one call of a fake runner, as the call speaks with its parent.

The classes of real slots do the work. The messages of placed workers, of multiprocessing's objects and of child calls
are frames of the fake runner's link.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dragonfly_executor.errors import MultiprocessingObjectError
from dragonfly_executor.errors.base import UnopenedCallError
from dragonfly_executor.protocol.child_outcome import ChildOutcome
from dragonfly_executor.protocol.frames import HEADER, Flag, Frame, Kind, encode
from dragonfly_executor.runner.agent_stream import NO_CALL
from dragonfly_executor.runner.child_calls import ChildCalls, ChildReply
from dragonfly_executor.runner.child_executor import ChildExecutor
from dragonfly_executor.runner.method_channel import MethodChannel, SlotParts
from dragonfly_executor.runner.object_client import ObjectClient
from dragonfly_executor.serialization.placed_run import KIND as PLACED_WORKER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dragonfly_executor.serialization import SlotCodec

ENDED = "the fake runner has ended this call, whose thread goes on"


class FakeStream:
    """A fake slot's stream, in the place of a slot's stream to its agent.

    Args:
        ref: id and attempt of the call.
        send: sends a frame in pieces.
        waits: called when the call begins to wait for child calls, and when it ends that.
    """

    def __init__(self, ref: tuple[int, int], send: Callable[..., object], waits: Callable[[bool], object]) -> None:
        self.running = ref
        self._send = send
        self._waits = waits

    def is_here(self) -> bool:
        """Return True: fake slots do not fork."""
        return True

    def send(self, frame: bytes) -> None:
        """Send a frame."""
        kind, flags, *_ = HEADER.unpack_from(frame)
        if kind == Kind.WAIT:
            self._waits(not flags & Flag.END)
        self._send(frame)

    def send_chunk(self, header: bytes, piece: Any) -> None:
        """Send a frame whose payload is not joined to its header."""
        self._send(header, piece)


class FakeClient(ObjectClient):
    """Sends requests until the call is ended from outside."""

    is_ended = False

    def end(self) -> None:
        """End what waits for replies, and refuse further requests."""
        self.is_ended = True
        for token in list(self._waiting):
            self._refuse(token)

    def _refuse(self, token: int) -> None:
        """Answer a request in the place of the parent."""
        waiter = self._waiting.pop(token, None)
        if waiter is None:
            return
        is_child = isinstance(waiter, ChildReply)
        waiter.data = pickle.dumps((ChildOutcome.CANCELLED, b"") if is_child else MultiprocessingObjectError(ENDED))
        waiter.is_error = not is_child
        waiter.wake()

    def _send(self, token: int, number: int, method: str, args: tuple[Any, ...]) -> None:
        if self.is_ended:
            self._refuse(token)
        else:
            super()._send(token, number, method, args)


class FakeChannel(MethodChannel):
    """The messages of a worker of a fake runner."""

    def run_process(self, argv: list[str], settings: Mapping[str, Any]) -> Any:
        """Refuse: a fake slot is a thread.

        Raises:
            MultiprocessingObjectError: always.
        """
        raise MultiprocessingObjectError(
            "place_process() needs slots that are processes, and those of a FakeBackend are threads: use "
            "LocalBackend() in this test"
        )

    def end(self) -> None:
        """Run no more methods: the worker was ended from outside."""
        self._arrived.clear()
        with suppress(RuntimeError):  # its event loop has just ended
            self._put(0)


class NoPayloads:
    """The large payloads of a fake slot: all of them come in frames."""

    share_memory = False

    def put_shared(self, parts: object, total: int) -> None:
        """Return None: there is no shared memory."""


class NoShared:
    """The shared objects in method calls of a fake slot."""

    def fetch(self, data: object, call_id: int, attempt: int) -> UnopenedCallError:
        """Return the error of a method call with a shared object."""
        return UnopenedCallError(
            "methods of workers on a FakeBackend do not take shared objects: pass the object itself, or use "
            "LocalBackend() in this test"
        )


class FakeSlot:
    """The slot of one call.

    Args:
        number: its number in requests.
        ref: id and attempt of the call.
        codec: the runner's.
        max_payload: maximum size of a request in bytes.
        send: sends a frame in pieces.

    Attributes:
        number: see above.
        is_waiting: whether the call waits for child calls, and so has lent its slot.
    """

    def __init__(
        self, number: int, ref: tuple[int, int], codec: SlotCodec, max_payload: int, send: Callable[..., object]
    ) -> None:
        self.number = number
        self.is_waiting = False
        self._ref = ref
        self._codec = codec
        self._max_payload = max_payload
        self._stream: Any = FakeStream(ref, send, self._waits)
        self._client: FakeClient | None = None
        self._children: ChildCalls | None = None
        self._channel: FakeChannel | None = None
        self._on_reply: Callable[[Frame], object] = lambda frame: None

    # -- the thread of the call ----------------------------------------------------------------------------------------

    def stand_in(self, kind: str, number: int, detail: Any) -> Any:
        """Return the stand-in of an object that the parent serves. See `rebuild.served_object`."""
        client = self._object_client()
        if kind != PLACED_WORKER:
            return client.stand_in(kind, number, detail)
        payloads: Any = NoPayloads()
        shared: Any = NoShared()
        parts = SlotParts(self._codec, payloads, shared, self._max_payload, self._ref)
        self._channel = FakeChannel(client, number, parts)
        return self._channel

    def pool(self) -> ChildExecutor:
        """Return an executor for the pool that runs this call. See `Parent.pool`."""
        if self._children is None:
            self._children = ChildCalls(self._stream, self._object_client(), self._codec.child_codec())
        return ChildExecutor(self._children)

    def _object_client(self) -> FakeClient:
        if self._client is None:
            self._stream.send(encode(Kind.SLOT_UP, detail=self.number))
            self._client = FakeClient(self._stream, self._max_payload, self.number, self._read)
        return self._client

    def _read(self, _: object, on_reply: Callable[[Frame], object]) -> None:
        self._on_reply = on_reply

    def _waits(self, is_waiting: bool) -> None:
        self.is_waiting = is_waiting

    def call_ended(self) -> None:
        """Tell the parent what has changed, before the call's result is sent."""
        self._stream.running = NO_CALL
        self._channel = None
        if self._client is not None:
            self._client.end_call()
        if self._children is not None:
            self._children.close()

    # -- any thread ----------------------------------------------------------------------------------------------------

    def replied(self, frame: Frame) -> None:
        """Handle a reply of the parent, or a message to the worker."""
        self._on_reply(frame)

    def end(self) -> bool:
        """End what the call waits for. Return whether the parent knows this slot, which has ended now."""
        client = self._client
        if client is None or client.is_ended:
            return False
        client.end()
        if self._channel is not None:
            self._channel.end()
        return True
